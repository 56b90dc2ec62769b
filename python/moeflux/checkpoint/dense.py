"""Dense weights of a checkpoint as operands on a device. Knows no architecture."""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from moeflux._core import Device
from moeflux.checkpoint.checkpoint import Checkpoint
from moeflux.checkpoint.safetensors import TensorEntry
from moeflux.checkpoint.tensor_buffers import TensorBuffers
from moeflux.checkpoint.tensor_table import check_shape, element_dtype
from moeflux.ops.operands import Matrix, Vector
from moeflux.quant import Dtype


class DenseWeights:
    """Weights by name, checked against the shape the model wants, on one device.

    Tensors are used in place in their mapped files where alignment allows, else copied; asking
    twice for one gives the same buffer. Each getter raises CheckpointError for a missing tensor,
    with the files looked in and similar names, and for another dtype or shape.
    """

    def __init__(self, checkpoint: Checkpoint, device: Device) -> None:
        self._table = checkpoint.table
        self._buffers = TensorBuffers(device)
        self._prefix = ""

    def under(self, name: str) -> DenseWeights:
        """The same weights, with names relative to `name` ("model.layers.3", "self_attn")."""
        scope = copy.copy(self)
        scope._prefix = f"{self._prefix}{name}."  # noqa: SLF001 - another object of this class
        return scope

    @property
    def mapped_nbytes(self) -> int:
        """Bytes used in place so far, all scopes together."""
        return self._buffers.mapped_nbytes

    @property
    def copied_nbytes(self) -> int:
        """Bytes copied to the device so far, all scopes together."""
        return self._buffers.copied_nbytes

    def has(self, name: str) -> bool:
        """Whether there is a tensor of exactly this name."""
        return self._table.has(self._prefix + name)

    def matrix(self, name: str, rows: int, cols: int) -> Matrix:
        """The matrix [rows, cols] in name.weight and, if quantised, name.scales and name.biases."""
        stored = self._table.matrix(self._prefix + name, (rows, cols))
        return Matrix(rows, cols, stored.format, *map(self._buffers.buffer, stored.tensors))

    def vector(self, name: str, length: int, *, plus_one: bool = False) -> Vector:
        """The tensor `name` [length]; with plus_one 1 + w in float32 (zero-centred norms)."""
        tensor = self._entry(name)
        check_shape(tensor, (length,))
        if plus_one:
            data = (np.float32(1) + self.array(name, (length,))).tobytes()
            return Vector(self._buffers.upload(data), length)
        return Vector(self._buffers.buffer(tensor), length, element_dtype(tensor))

    def convolution(self, name: str, channels: int, kernel_size: int) -> Vector:
        """The depthwise convolution `name` as rows [channels, kernel_size], from either layout."""
        tensor = self._entry(name)
        check_shape(tensor, (channels, kernel_size, 1), (channels, 1, kernel_size))
        dtype = element_dtype(tensor)
        return Vector(self._buffers.buffer(tensor), channels * kernel_size, dtype)

    def array(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A float32 copy of the tensor `name` for computing on the host; meant for small ones."""
        tensor = self._entry(name)
        check_shape(tensor, shape)
        return _as_float32(self._buffers.data(tensor), element_dtype(tensor)).reshape(shape)

    def _entry(self, name: str) -> TensorEntry:
        return self._table.entry(self._prefix + name)


def _as_float32(data: memoryview, dtype: Dtype) -> NDArray[np.float32]:
    if dtype is Dtype.BFLOAT16:
        # A bfloat16 is the upper half of the float32 of the same value.
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, "<f2" if dtype is Dtype.FLOAT16 else "<f4").astype(np.float32)
