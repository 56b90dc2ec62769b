"""One run of a kernel beside what the formula gives, and how far they are apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from moeflux._core import Device
from moeflux.doctor.arrays import Array
from moeflux.quant import AFFINE_BITS, Dtype, MatrixFormat

TOLERANCE = 1e-5
"""Distance of a float32 result from the float64 formula, of the formula's largest magnitude."""

FORMATS = (
    *(MatrixFormat(dtype) for dtype in Dtype),
    *(MatrixFormat(Dtype.BFLOAT16, bits, 64) for bits in AFFINE_BITS),
    MatrixFormat(Dtype.BFLOAT16, 4, 32),
    MatrixFormat(Dtype.FLOAT16, 4, 128),
    MatrixFormat(Dtype.FLOAT32, 3, 32),
)


@dataclass(frozen=True)
class Case:
    """What `run` gives on a device should be `wanted`."""

    detail: str
    run: Callable[[Device], Sequence[Array]]
    wanted: Sequence[Array]

    def error(self, results: Sequence[Array]) -> float:
        """The largest relative distance; infinite for what is not finite or of another shape.

        Whole numbers are right or wrong, 0 or infinite.
        """
        if len(results) != len(self.wanted):
            return float("inf")
        return max(map(_distance, results, self.wanted))


def format_name(form: MatrixFormat) -> str:
    name = form.dtype.name.lower()
    return f"{form.bits} bits, groups of {form.group_size}, {name}" if form.quantised else name


def _distance(got: Array, wanted: Array) -> float:
    got = got.reshape(-1)
    wanted = wanted.reshape(-1)
    if got.shape != wanted.shape:
        return float("inf")
    if np.issubdtype(wanted.dtype, np.integer):
        return 0.0 if np.array_equal(got, wanted) else float("inf")
    if not np.isfinite(got).all():
        return float("inf")
    largest = float(np.abs(wanted).max()) or 1.0
    return float(np.abs(got.astype(np.float64) - wanted.astype(np.float64)).max()) / largest
