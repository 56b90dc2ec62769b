"""A device that allocates and runs nothing, to learn what a model would need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from typing_extensions import Buffer as SupportsBuffer

from moeflux._core import Buffer, Device, Mapping, Pipeline


@dataclass(frozen=True)
class DryBuffer:
    """A number of bytes."""

    nbytes: int
    host: bool = False

    def view(self, offset: int, nbytes: int) -> DryBuffer:
        if offset < 0 or offset + nbytes > self.nbytes:
            raise ValueError(f"{nbytes} bytes at {offset} exceed a buffer of {self.nbytes}")
        return DryBuffer(nbytes, self.host)


class DryRecording:
    """Takes dispatches and forgets them."""

    def __init__(self, device: DryDevice) -> None:
        self.device = device

    def dispatch(self, pipeline: Pipeline, buffers: Sequence[Buffer], params: bytes) -> None:
        """Nothing is kept."""


class DryDevice:
    """Counts what is uploaded; wraps and buffers cost nothing."""

    def __init__(self) -> None:
        self.uploaded_nbytes = 0

    def buffer(self, nbytes: int, host: bool = False) -> DryBuffer:
        return DryBuffer(nbytes, host)

    def wrap(self, mapping: Mapping) -> DryBuffer:
        return DryBuffer(mapping.nbytes)

    def upload(self, data: SupportsBuffer) -> DryBuffer:
        nbytes = memoryview(data).nbytes
        self.uploaded_nbytes += nbytes
        return DryBuffer(nbytes)

    def pipeline(self, kernel: str, **constants: int) -> None:
        """Any kernel will do."""

    def record(self) -> DryRecording:
        return DryRecording(self)

    def as_device(self) -> Device:
        """Itself, where a Device is wanted."""
        return cast(Device, self)
