"""Checkpoints of every kind that can be converted, as functions that write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flash_moe_folder import write_flash_moe

from tiny_checkpoint import HfLayout, MlxLayout, TinyModel, write_hf, write_mlx

N_LAYERS, N_EXPERTS = 4, 8
MIXED = {
    "mlp.gate": (8, 64),
    "layers.1.mlp.experts.down_proj": (8, 32),
    "layers.2.mlp.experts.gate_proj": None,
    "self_attn.k_proj": (6, 64),
}


def _write_hf(kind: str, layout: HfLayout) -> Callable[[Path], object]:
    return lambda folder: write_hf(TinyModel(kind=kind), folder, layout)


def _write_mlx(kind: str, layout: MlxLayout) -> Callable[[Path], object]:
    return lambda folder: write_mlx(TinyModel(kind=kind), folder, layout)


def _write_flash_moe(folder: Path) -> None:
    source = folder.with_name(f"{folder.name}-source")
    write_mlx(TinyModel(), source)
    write_flash_moe(source, folder, N_EXPERTS)


WRITERS: dict[str, Callable[[Path], object]] = {
    "mlx": _write_mlx("qwen3_5_moe", MlxLayout()),
    "mlx-next": _write_mlx("qwen3_next", MlxLayout(bits=3, aligned=False, n_shards=3)),
    "mlx-mixed": _write_mlx("qwen3_moe", MlxLayout(overrides=MIXED)),
    "mlx-bfloat16": _write_mlx("qwen3_5_moe", MlxLayout(bits=None)),
    "hf": _write_hf("qwen3_5_moe", HfLayout()),
    "hf-next": _write_hf("qwen3_next", HfLayout(n_shards=2, aligned=False)),
    "hf-moe": _write_hf("qwen3_moe", HfLayout(dtype="F16")),
    "flash-moe": _write_flash_moe,
}

Sources = Callable[[str], Path]
"""The folder of a source by its name in WRITERS."""
