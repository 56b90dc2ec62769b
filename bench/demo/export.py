"""Write a checkpoint as the model folder that ships: MLX affine 4-bit layout, one file.

Knows the published tensor names and the safetensors container; the numbers are quantize.py's.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from config import ModelConfig
from quantize import BF16_SUFFIXES, GROUP, bits_of, encode_groups
from safetensors.torch import save_file
from torch import Tensor

PREFIX = "language_model."
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def published(name: str, value: Tensor) -> dict[str, Tensor]:
    """One trained tensor under its name, or names, and axes in the file."""
    base = PREFIX + name
    if name.endswith("experts.gate_up_proj"):
        gate, up = value.chunk(2, 1)
        base = base.removesuffix("experts.gate_up_proj") + "switch_mlp."
        return {base + "gate_proj.weight": gate, base + "up_proj.weight": up}
    if name.endswith("experts.down_proj"):
        return {base.removesuffix("experts.down_proj") + "switch_mlp.down_proj.weight": value}
    if name.endswith("conv1d.weight"):
        return {base: value.movedim(1, 2)}
    return {base: value}


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes [.., columns] as 32-bit words [.., columns * bits / 32], lowest bits first."""
    shifts = torch.arange(0, 32, bits)
    grouped = torch.unflatten(codes.long(), -1, (-1, 32 // bits))
    words: Tensor = (grouped << shifts).sum(-1)
    return words.to(torch.uint32)


def stored(name: str, value: Tensor, bits: int | None) -> dict[str, Tensor]:
    """The tensors that hold one weight: words, scales and biases, or one plain tensor."""
    if bits is None:
        if name.endswith("A_log"):
            return {name: value}
        if name.endswith("norm.weight") and not name.endswith(BF16_SUFFIXES):
            value = 1.0 + value
        return {name: value.bfloat16()}
    codes, scales, biases = encode_groups(value.reshape(-1, GROUP), bits)
    rows = value.shape[:-1]
    base = name.removesuffix("weight")
    return {
        name: pack(codes.reshape(*rows, -1), bits),
        base + "scales": scales.reshape(*rows, -1),
        base + "biases": biases.reshape(*rows, -1),
    }


def convert(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of the file, and the "quantization" entry of config.json."""
    tensors: dict[str, Tensor] = {}
    quantised: dict[str, Any] = {"group_size": GROUP, "bits": 4, "mode": "affine"}
    for trained, value in weights.items():
        bits = bits_of(trained)
        for name, part in published(trained, value.float()).items():
            tensors |= stored(name, part.contiguous(), bits)
            if bits == 8:
                quantised[name.removesuffix(".weight")] = {"group_size": GROUP, "bits": 8}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}, quantised


def write_json(path: Path, contents: dict[str, Any]) -> None:
    """Indented JSON with a final newline."""
    path.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("model", type=Path, help="folder that already holds tokenizer.json")
    options = parser.parse_args()
    checkpoint = torch.load(options.checkpoint, weights_only=True)
    config = ModelConfig(**checkpoint["config"])
    tokenizer = json.loads((options.model / "tokenizer.json").read_text(encoding="utf-8"))
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    tensors, quantised = convert(checkpoint["weights"])
    save_file(tensors, options.model / "model.safetensors", metadata={"format": "mlx"})
    control = {name: ids[name] for name in CONTROL_TOKENS}
    write_json(options.model / "config.json", config.to_json(control, quantised))
    write_json(
        options.model / "generation_config.json",
        {
            "do_sample": True,
            "temperature": 0.8,
            "top_p": 0.95,
            "top_k": 40,
            "eos_token_id": [control["<|endoftext|>"], control["<|im_end|>"]],
            "pad_token_id": control["<|endoftext|>"],
        },
    )
    size = sum(path.stat().st_size for path in options.model.iterdir())
    print(f"{len(tensors)} tensors, folder {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
