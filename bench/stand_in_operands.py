"""Operands with stand-in contents: small finite numbers, in more memory than caches hold."""

from __future__ import annotations

import numpy as np

from kernel_costs import MatrixShape
from moeflux._core import Buffer, Device
from moeflux.ops.operands import Activations, KeyValueCache, Matrix, Vector
from moeflux.quant import Dtype

ALIGNMENT = 4096
FILL = 0x3C
"""As the bytes of elements, scales and biases of every dtype a number between 0.01 and 1.1."""
MOST_COPIES = 128
"""Of one operand, in one command buffer."""


class StandInOperands:
    """Weights are views of one buffer of `working_set` bytes, one behind the other."""

    def __init__(self, device: Device, working_set: int) -> None:
        self.device = device
        self._weights = self.filled(working_set)
        self._next = 0

    def n_copies(self, nbytes: int) -> int:
        """How many operands of this size the caches do not hold together."""
        return max(1, min(MOST_COPIES, -(-self._weights.nbytes // nbytes)))

    def filled(self, nbytes: int) -> Buffer:
        return self.device.upload(bytes([FILL]) * nbytes)

    def matrix(self, shape: MatrixShape) -> Matrix:
        """The next weights; a matrix beyond the working set gets bytes of its own."""
        form = shape.format
        scales_nbytes = form.scales_nbytes(shape.rows, shape.cols)
        weight = self._take(form.weight_nbytes(shape.rows, shape.cols))
        scales, biases = (self._take(scales_nbytes) if scales_nbytes else None for _ in range(2))
        return Matrix(shape.rows, shape.cols, form, weight, scales, biases)

    def matrices(self, shape: MatrixShape) -> list[Matrix]:
        return [self.matrix(shape) for _ in range(self.n_copies(shape.nbytes))]

    def vector(self, length: int, dtype: Dtype = Dtype.FLOAT32) -> Vector:
        return Vector(self._take(length * dtype.itemsize), length, dtype)

    def rows(self, count: int, width: int) -> Activations:
        """Random activations [count, width]."""
        array = np.random.default_rng(count).standard_normal((count, width), dtype=np.float32)
        return Activations(self.device.upload(array.tobytes()), width)

    def caches(self, context: int, width: int) -> list[KeyValueCache]:
        """Key/value caches with rows of `width`, which kernels write to."""
        nbytes = 4 * context * width
        return [
            KeyValueCache(self.filled(nbytes), self.filled(nbytes), context)
            for _ in range(self.n_copies(2 * nbytes))
        ]

    def integers(self, values: list[int]) -> Buffer:
        return self.device.upload(np.array(values, np.int32).tobytes())

    def _take(self, nbytes: int) -> Buffer:
        if nbytes > self._weights.nbytes:
            return self.filled(nbytes)
        if self._next + nbytes > self._weights.nbytes:
            self._next = 0
        view = self._weights.view(self._next, nbytes)
        self._next += -(-nbytes // ALIGNMENT) * ALIGNMENT
        return view
