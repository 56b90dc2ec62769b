"""Weights of random contents, stored as checkpoints store them, and what their bytes mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moeflux.doctor.reference import Float
from moeflux.quant import Dtype, MatrixFormat


@dataclass(frozen=True)
class StoredVector:
    """Elements of `dtype` and their values."""

    dtype: Dtype
    data: bytes
    values: Float


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix [rows, cols] and its values; scales and biases only if it is quantised."""

    form: MatrixFormat
    weight: bytes
    scales: bytes
    biases: bytes
    values: Float

    @property
    def rows(self) -> int:
        return len(self.values)

    @property
    def cols(self) -> int:
        return len(self.values[0])

    @property
    def parts(self) -> tuple[bytes, bytes, bytes]:
        return self.weight, self.scales, self.biases


def random_rows(seed: int, *shape: int) -> Float:
    """Float32 values, so that a device gets what the reference gets."""
    generator = np.random.default_rng(seed)
    return generator.standard_normal(shape, dtype=np.float32).astype(np.float64)


def random_vector(seed: int, length: int, dtype: Dtype, scale: float = 1.0) -> StoredVector:
    """Normally distributed; bfloat16 by dropping the lower half of a float32."""
    single = (scale * random_rows(seed, length)).astype(np.float32)
    if dtype is Dtype.BFLOAT16:
        upper = (single.view(np.uint32) >> 16).astype(np.uint16)
        values = (upper.astype(np.uint32) << 16).view(np.float32)
        return StoredVector(dtype, upper.tobytes(), values.astype(np.float64))
    elements = single.astype(np.float16) if dtype is Dtype.FLOAT16 else single
    return StoredVector(dtype, elements.tobytes(), elements.astype(np.float64))


def random_matrix(seed: int, rows: int, cols: int, form: MatrixFormat) -> StoredMatrix:
    """Any codes, with scales and biases that make values of about 1."""
    if not form.quantised:
        elements = random_vector(seed, rows * cols, form.dtype)
        return StoredMatrix(form, elements.data, b"", b"", elements.values.reshape(rows, cols))
    weight = np.random.default_rng(seed).bytes(form.weight_nbytes(rows, cols))
    bits = np.unpackbits(np.frombuffer(weight, np.uint8), bitorder="little")
    codes = bits.reshape(rows, -1, form.group_size, form.bits) @ (1 << np.arange(form.bits))
    n_groups = rows * cols // form.group_size
    scales = random_vector(seed + 1, n_groups, form.dtype, 2.0**-form.bits)
    biases = random_vector(seed + 2, n_groups, form.dtype, 0.5)
    scale, bias = (part.values.reshape(rows, -1, 1) for part in (scales, biases))
    values = (codes * scale + bias).reshape(rows, cols)
    return StoredMatrix(form, weight, scales.data, biases.data, values)
