"""Writes a checkpoint of a real model's shapes with random 4-bit weights, for measuring speed.

The names and the config are those of the tests' tiny checkpoints, so their folder has to be on the
path. About as fast as the drive; the 35B model takes 20 GB.

usage: PYTHONPATH=tests python bench/random_checkpoint.py FOLDER [--model qwen3.6-35b-a3b]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tiny_checkpoint import (
    TOKENIZER_CONFIG,
    MlxLayout,
    TinyModel,
    model_config,
    tensor_shapes,
    tokenizer_json,
)

BITS, GROUP_SIZE = 4, 64
CODE_DEVIATION = 4.6
"""Of equally frequent codes from 0 to 15."""
BLOCK = np.random.default_rng(0).integers(0, 2**32, 1 << 22, np.uint32).tobytes()
"""Random codes, repeated over every matrix."""

MODELS = {
    "qwen3.6-35b-a3b": TinyModel(
        kind="qwen3_5_moe",
        hidden=2048,
        n_layers=40,
        n_experts=256,
        top_k=8,
        expert_width=512,
        shared_width=512,
        vocabulary=248320,
        n_heads=16,
        n_kv_heads=2,
        head_dim=256,
        n_key_heads=16,
        n_value_heads=32,
        delta_head_dim=128,
    ),
    "tiny": TinyModel(kind="qwen3_5_moe"),
}


@dataclass(frozen=True)
class Part:
    """One tensor of the file; `piece` is repeated until it is full."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    piece: bytes


def bfloat16(value: float) -> bytes:
    """Rounded down."""
    return (np.array([value], np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()


def matrix_parts(base: str, shape: tuple[int, ...], bits: int, group_size: int) -> Iterator[Part]:
    """Codes, scales and biases of weights with a mean of 0 and a sum of squares of 1 in a row."""
    *rows, cols = shape
    n_rows = int(np.prod(rows))
    scale = 1 / (CODE_DEVIATION * 2 ** (bits - BITS) * cols**0.5)
    words, groups = cols * bits // 32, cols // group_size
    middle = -scale * (2**bits - 1) / 2
    yield Part(f"{base}.weight", "U32", (*rows, words), 4 * n_rows * words, BLOCK)
    for name, value in (("scales", scale), ("biases", middle)):
        yield Part(f"{base}.{name}", "BF16", (*rows, groups), 2 * n_rows * groups, bfloat16(value))


def parts(model: TinyModel) -> Iterator[Part]:
    layout = MlxLayout(bits=BITS, group_size=GROUP_SIZE)
    for name, shape in tensor_shapes(model):
        base = "language_model." + (name if name == "lm_head" else f"model.{name}")
        base = base.replace(".mlp.experts.", ".mlp.switch_mlp.")
        affine = layout.affine(name)
        if affine is not None:
            yield from matrix_parts(base, shape, *affine)
        elif name.endswith("A_log"):
            piece = np.zeros(1, np.float32).tobytes()
            yield Part(base, "F32", shape, 4 * shape[0], piece)
        elif name.endswith("dt_bias"):
            yield Part(base, "BF16", shape, 2 * shape[0], bfloat16(0.0))
        else:
            whole = (*shape, 1) if name.endswith("conv1d") else shape
            value = 0.25 if name.endswith("conv1d") else 1.0
            yield Part(f"{base}.weight", "BF16", whole, 2 * int(np.prod(shape)), bfloat16(value))


def write(model: TinyModel, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    layout, config = MlxLayout(bits=BITS, group_size=GROUP_SIZE), model_config(model)
    overrides = {
        f"language_model.model.{name}": dict(zip(("bits", "group_size"), affine, strict=True))
        for name, _ in tensor_shapes(model)
        if (affine := layout.affine(name)) not in (None, (BITS, GROUP_SIZE))
    }
    default = {"group_size": GROUP_SIZE, "bits": BITS, "mode": "affine"}
    config["quantization"] = config["quantization_config"] = default | overrides
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(tokenizer_json())
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    # Larger elements first, so that each tensor lies at a multiple of its element.
    tensors = sorted(parts(model), key=lambda part: part.dtype == "BF16")
    header, offset = {}, 0
    for part in tensors:
        end = offset + part.nbytes
        header[part.name] = {
            "dtype": part.dtype,
            "shape": part.shape,
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for part in tensors:
            write_part(file, part)


def write_part(file: BinaryIO, part: Part) -> None:
    piece = part.piece * max(1, min(len(BLOCK), part.nbytes) // len(part.piece))
    left = part.nbytes
    while left:
        left -= file.write(piece[:left])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=MODELS, default="qwen3.6-35b-a3b")
    arguments = parser.parse_args()
    write(MODELS[arguments.model], arguments.folder)


if __name__ == "__main__":
    main()
