"""Reads safetensors files and makes expert records with nothing of the package."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RECORD_ALIGNMENT = 16384
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
PARTS = ("weight", "scales", "biases")
ELEMENTS = {"U32": "<u4", "BF16": "<u2", "F16": "<f2", "F32": "<f4", "U8": "u1"}
Tensors = dict[str, NDArray[np.generic]]


def read_tensors(folder: Path) -> Tensors:
    """All tensors of a folder's safetensors files; a bfloat16 is a uint16."""
    tensors: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, (dtype, shape, begin, end) in headers(path).items():
            data = path.read_bytes()[begin:end]
            tensors[name] = np.frombuffer(data, ELEMENTS[dtype]).reshape(shape)
    return tensors


def headers(path: Path) -> dict[str, tuple[str, list[int], int, int]]:
    """Name to dtype, shape, first byte and end in the file."""
    data = path.read_bytes()
    nbytes = int.from_bytes(data[:8], "little")
    values = json.loads(data[8 : 8 + nbytes])
    values.pop("__metadata__", None)
    return {
        name: (value["dtype"], value["shape"], *(8 + nbytes + at for at in value["data_offsets"]))
        for name, value in values.items()
    }


def expert_blocks(tensors: Tensors, layer: int, expert: int) -> list[bytes]:
    """The blocks of one expert in the order of a record, from any layout of tensors."""
    (prefix,) = {
        name.partition(f"layers.{layer}.mlp.")[0] + f"layers.{layer}.mlp."
        for name in tensors
        if f"layers.{layer}.mlp." in name and not name.startswith("mtp")
    }
    if f"{prefix}switch_mlp.gate_proj.weight" in tensors:
        names = [f"{prefix}switch_mlp.{name}.{part}" for name in PROJECTIONS for part in PARTS]
        return [tensors[name][expert].tobytes() for name in names if name in tensors]
    if f"{prefix}experts.gate_up_proj" in tensors:
        gate_proj, up_proj = np.split(tensors[f"{prefix}experts.gate_up_proj"][expert], 2)
        down_proj = tensors[f"{prefix}experts.down_proj"][expert]
        return [matrix.tobytes() for matrix in (gate_proj, up_proj, down_proj)]
    return [tensors[f"{prefix}experts.{expert}.{name}.weight"].tobytes() for name in PROJECTIONS]


def record(blocks: list[bytes]) -> bytes:
    """Blocks at multiples of 16 bytes, padded with zeros to a multiple of 16 KiB."""
    data = b"".join(block + bytes(-len(block) % 16) for block in blocks)
    return data + bytes(-len(data) % RECORD_ALIGNMENT)


def digests(folder: Path) -> dict[str, str]:
    """Relative path and SHA-256 of every file below the folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
