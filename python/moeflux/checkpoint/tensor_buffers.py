"""Tensors as device buffers, in place where alignment allows. Knows no shape, no architecture."""

from __future__ import annotations

from pathlib import Path

from moeflux._core import Buffer, Device, Mapping
from moeflux.checkpoint.safetensors import DTYPE_BITS, TensorEntry
from moeflux.errors import CheckpointError


class TensorBuffers:
    """Device buffers of tensors: views of a shard mapped once, or copies where one is not aligned.

    A kernel loads whole elements, so a tensor is used in place if its offset in the file is a
    multiple of its element size. Each is fetched once; `mapped_nbytes` and `copied_nbytes` count.
    """

    def __init__(self, device: Device) -> None:
        self.mapped_nbytes = 0
        self.copied_nbytes = 0
        self._device = device
        self._mappings: dict[Path, Mapping] = {}
        self._shards: dict[Path, Buffer] = {}
        self._buffers: dict[str, Buffer] = {}

    def buffer(self, tensor: TensorEntry) -> Buffer:
        """The tensor on the device. Raises CheckpointError as `data` does, and OutOfMemoryError."""
        if tensor.name not in self._buffers:
            self._buffers[tensor.name] = self._fetch(tensor)
        return self._buffers[tensor.name]

    def upload(self, data: bytes) -> Buffer:
        """A buffer with a copy of what was computed from a tensor."""
        self.copied_nbytes += len(data)
        return self._device.upload(data)

    def data(self, tensor: TensorEntry) -> memoryview:
        """The bytes of the tensor in its mapped file.

        Raises CheckpointError if the file cannot be read or became shorter than its header says.
        """
        if tensor.path not in self._mappings:
            self._mappings[tensor.path] = _map(tensor.path)
        shard, end = memoryview(self._mappings[tensor.path]), tensor.offset + tensor.nbytes
        if end > shard.nbytes:
            raise CheckpointError(
                f"{tensor.path}: tensor {tensor.name!r} ends at byte {end} by the header, "
                f"but the file now has {shard.nbytes}"
            )
        return shard[tensor.offset : end]

    def _fetch(self, tensor: TensorEntry) -> Buffer:
        data = self.data(tensor)
        if not data:
            raise CheckpointError(f"{tensor.path}: tensor {tensor.name!r} is empty")
        if 8 * tensor.offset % DTYPE_BITS[tensor.dtype]:
            self.copied_nbytes += tensor.nbytes
            return self._device.upload(data)
        if tensor.path not in self._shards:
            self._shards[tensor.path] = self._device.wrap(self._mappings[tensor.path])
        self.mapped_nbytes += tensor.nbytes
        return self._shards[tensor.path].view(tensor.offset, tensor.nbytes)


def _map(path: Path) -> Mapping:
    try:
        return Mapping(path)
    except (OSError, ValueError) as error:  # a ValueError if the file became empty
        raise CheckpointError(f"{path}: cannot be mapped: {error}") from error
