"""Tensors as safetensors files hold them: element types, affine codes, and a writer of files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Stored = tuple[str, NDArray[np.generic]]
"""A tensor as a file holds it: safetensors dtype, and an array of elements of that size."""


def encode(array: Float32, dtype: str) -> Stored:
    """Round to "F32", "F16" or "BF16" (to nearest, ties to even)."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        return dtype, ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return dtype, np.ascontiguousarray(array, {"F32": np.float32, "F16": np.float16}[dtype])


def decode(stored: Stored) -> Float32:
    """The float32 values of a tensor of floats."""
    dtype, array = stored
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def quantise(weight: Float32, bits: int, group_size: int, dtype: str) -> dict[str, Stored]:
    """Codes, scales and biases: weight = code * scale + bias, one of each per group of columns."""
    groups = weight.reshape(*weight.shape[:-1], -1, group_size)
    low, high = groups.min(-1), groups.max(-1)
    biases = encode(low, dtype)
    scales = encode(np.maximum(high - low, np.float32(1e-6)) / np.float32(2**bits - 1), dtype)
    exact = (groups - decode(biases)[..., None]) / decode(scales)[..., None]
    codes = np.clip(np.round(exact), 0, 2**bits - 1).astype(np.uint8).reshape(weight.shape)
    return {"weight": ("U32", pack(codes, bits)), "scales": scales, "biases": biases}


def pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint32]:
    """Codes [..., cols] as words [..., cols * bits / 32], lowest bits first."""
    stream = np.unpackbits(codes[..., None], axis=-1, count=bits, bitorder="little")
    stream = stream.reshape(*codes.shape[:-1], -1)
    return np.packbits(stream, axis=-1, bitorder="little").view("<u4")


def dequantise(parts: Mapping[str, Stored], bits: int, group_size: int) -> Float32:
    """The float32 weights of codes, scales and biases."""
    words = parts["weight"][1]
    stream = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")
    stream = stream.reshape(*words.shape[:-1], -1, bits)
    codes = np.packbits(stream, axis=-1, bitorder="little")[..., 0]
    groups = codes.reshape(*codes.shape[:-1], -1, group_size).astype(np.float32)
    scales, biases = decode(parts["scales"])[..., None], decode(parts["biases"])[..., None]
    return (groups * scales + biases).reshape(codes.shape)


def write_safetensors(path: Path, tensors: Mapping[str, Stored], *, aligned: bool = True) -> None:
    """Write one file; its data starts at a multiple of 8 if `aligned`, else at an odd offset."""
    header: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    offset = 0
    for name, (dtype, array) in tensors.items():
        end = offset + array.nbytes
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8 if aligned else 1 - len(text) % 2)
    data = b"".join(np.ascontiguousarray(array).tobytes() for _, array in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
