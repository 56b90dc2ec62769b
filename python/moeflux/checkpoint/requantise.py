"""Rows of weights from and to the formats of quant.py, in NumPy. Knows no files and no names.

Affine quantisation of a group of weights w (formula of the MLX documentation, mlx.core.quantize):
scale = (max w - min w) / (2^bits - 1) and bias = min w, in float32, each rounded to the element
type; code = (w - bias) / scale with the rounded two, to nearest (ties to even), clipped to
0 .. 2^bits - 1. A scale of 0 has codes 0. Codes are a little-endian bit stream, lowest bits first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moeflux.checkpoint.experts import block_sizes
from moeflux.errors import CheckpointError
from moeflux.quant import Dtype, MatrixFormat

Float32 = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_CODES_PER_WORD = 8
"""Eight codes of `bits` bits are `bits` whole bytes."""


def decode_elements(data: memoryview, dtype: Dtype) -> Float32:
    """The float32 values of the elements, exactly."""
    if dtype is Dtype.BFLOAT16:
        # A bfloat16 is the upper half of the float32 of the same value.
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, "<f2" if dtype is Dtype.FLOAT16 else "<f4").astype(np.float32)


def encode_elements(values: Float32, dtype: Dtype) -> memoryview:
    """Elements nearest to the values (ties to even) as bytes. Finite values may become infinite."""
    if dtype is Dtype.BFLOAT16:
        words = np.ascontiguousarray(values).view(np.uint32)
        elements = ((words + np.uint32(0x7FFF) + ((words >> 16) & 1)) >> 16).astype("<u2")
    else:
        with np.errstate(over="ignore"):
            elements = values.astype("<f2" if dtype is Dtype.FLOAT16 else "<f4")
    return memoryview(elements.tobytes())


def decode_rows(parts: Sequence[memoryview], matrix_format: MatrixFormat, cols: int) -> Float32:
    """Weights [rows, cols] of whole rows of a matrix: weight, scales and biases, or weight alone.

    code * scale + bias is computed in float32.
    """
    if not matrix_format.quantised:
        return decode_elements(parts[0], matrix_format.dtype).reshape(-1, cols)
    codes = unpack_codes(parts[0], matrix_format.bits)
    scales, biases = (decode_elements(part, matrix_format.dtype)[:, None] for part in parts[1:])
    groups = codes.reshape(-1, matrix_format.group_size).astype(np.float32)
    return (groups * scales + biases).reshape(-1, cols)


def encode_rows(
    rows: Float32, matrix_format: MatrixFormat
) -> tuple[memoryview, memoryview, memoryview]:
    """Codes, scales and biases of weights [rows, cols], quantised as the module's head says.

    cols must be a multiple of the group size. Raises CheckpointError for weights that are not
    finite or lie so far apart that scale or bias is not.
    """
    groups = rows.reshape(-1, matrix_format.group_size)
    largest_code = np.float32(2**matrix_format.bits - 1)
    low = groups.min(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        exact_scales = (groups.max(axis=1) - low) / largest_code
    stored = [encode_elements(values, matrix_format.dtype) for values in (exact_scales, low)]
    scales, biases = (decode_elements(part, matrix_format.dtype)[:, None] for part in stored)
    if not (np.isfinite(scales).all() and np.isfinite(biases).all()):
        raise CheckpointError(
            f"weights are not finite or too far apart for {matrix_format.dtype.name}"
        )
    codes = groups - biases
    with np.errstate(over="ignore"):
        np.divide(codes, scales, out=codes, where=scales > 0)
    codes *= scales > 0
    np.rint(codes, out=codes)
    np.clip(codes, 0, largest_code, out=codes)
    packed = pack_codes(codes.astype(np.uint8), matrix_format.bits)
    return packed.data, stored[0], stored[1]


def unpack_codes(data: memoryview, bits: int) -> Bytes:
    """The codes of a bit stream of whole bytes, one per byte."""
    packed = np.frombuffer(data, np.uint8).reshape(-1, bits)
    words = np.zeros((len(packed), 8), np.uint8)
    words[:, :bits] = packed
    stream = words.view("<u8")
    shifts = np.arange(0, _CODES_PER_WORD * bits, bits, dtype=np.uint64)
    codes = (stream >> shifts) & np.uint64(2**bits - 1)
    return codes.astype(np.uint8).reshape(-1)


def pack_codes(codes: Bytes, bits: int) -> Bytes:
    """The bit stream of codes, whose number is a multiple of eight."""
    columns = codes.reshape(-1, _CODES_PER_WORD)
    stream = np.zeros(len(columns), "<u8")
    for index in range(_CODES_PER_WORD):
        stream |= columns[:, index].astype(np.uint64) << np.uint64(index * bits)
    return np.ascontiguousarray(stream.view(np.uint8).reshape(-1, 8)[:, :bits]).reshape(-1)


def requantise(
    parts: Sequence[memoryview], matrix_format: MatrixFormat, target: MatrixFormat, cols: int
) -> tuple[memoryview, memoryview, memoryview]:
    """Whole rows of a matrix in `matrix_format` as codes, scales and biases in `target`."""
    return encode_rows(decode_rows(parts, matrix_format, cols), target)


def split_rows(
    parts: Sequence[memoryview], matrix_format: MatrixFormat, cols: int, n_rows: int
) -> list[list[memoryview]]:
    """The parts of a matrix cut into parts of at most `n_rows` rows each."""
    row_sizes = block_sizes(1, cols, matrix_format)
    rows = len(parts[0]) // row_sizes[0]
    return [
        [
            part[first * nbytes : (first + n_rows) * nbytes]
            for part, nbytes in zip(parts, row_sizes, strict=True)
        ]
        for first in range(0, rows, n_rows)
    ]
