"""Matrix formats: unquantised elements, or affine codes with a scale and bias per group."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from moeflux.errors import CheckpointError


class Dtype(IntEnum):
    """Element types; the values are those of `Dtype` in shaders/params.h."""

    FLOAT32 = 0
    FLOAT16 = 1
    BFLOAT16 = 2

    @property
    def itemsize(self) -> int:
        return 4 if self is Dtype.FLOAT32 else 2


AFFINE_BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)


@dataclass(frozen=True)
class MatrixFormat:
    """How the elements of a matrix [rows, cols] are stored.

    bits 0: elements of `dtype`. Otherwise codes of `bits` bits, lowest first in a little-endian bit
    stream, and weight = code * scale + bias (MLX affine quantisation) with scales and biases [rows,
    cols / group_size] of `dtype`.
    """

    dtype: Dtype
    bits: int = 0
    group_size: int = 0

    def __post_init__(self) -> None:
        if self.bits and (self.bits not in AFFINE_BITS or self.group_size not in GROUP_SIZES):
            raise CheckpointError(
                f"affine quantisation with {self.bits} bits and groups of {self.group_size} is not "
                f"supported; bits {AFFINE_BITS} and groups {GROUP_SIZES} are"
            )

    @property
    def quantised(self) -> bool:
        return self.bits > 0

    @property
    def code(self) -> int:
        """The function constant that tells a kernel this format."""
        return self.bits | self.group_size << 8 | self.dtype << 24

    def weight_nbytes(self, rows: int, cols: int) -> int:
        if not self.quantised:
            return rows * cols * self.dtype.itemsize
        return rows * cols * self.bits // 8

    def scales_nbytes(self, rows: int, cols: int) -> int:
        """Bytes of the scales, and of the biases."""
        return rows * (cols // self.group_size) * self.dtype.itemsize if self.quantised else 0

    def nbytes(self, rows: int, cols: int) -> int:
        """Bytes of the whole matrix."""
        return self.weight_nbytes(rows, cols) + 2 * self.scales_nbytes(rows, cols)
