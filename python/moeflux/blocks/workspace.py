"""Scratch activations shared by all layers of a model. Knows nothing of what they hold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moeflux._core import Buffer, Device
from moeflux.ops.operands import Activations

Float32Array = npt.NDArray[np.float32]
Int32Array = npt.NDArray[np.int32]


class Workspace:
    """Named float32 rows for up to `capacity` tokens, made at first use and shared by all layers.

    Layers run one after the other, so that one buffer per name serves them all.
    """

    def __init__(self, device: Device, capacity: int) -> None:
        self.device = device
        self.capacity = capacity
        self._rows: dict[tuple[str, int], Activations] = {}

    def rows(self, name: str, width: int, *, per_token: int = 1, host: bool = False) -> Activations:
        """Rows [capacity * per_token, width]; the same name and width give the same bytes."""
        key = (name, width * per_token)
        if key not in self._rows:
            nbytes = 4 * self.capacity * per_token * width
            self._rows[key] = Activations(self.device.buffer(nbytes, host=host), width)
        return self._rows[key]

    @property
    def nbytes(self) -> int:
        """Bytes allocated so far."""
        return sum(rows.buffer.nbytes for rows in self._rows.values())

    @property
    def host_nbytes(self) -> int:
        """Of these, in memory that the host sees."""
        return sum(rows.buffer.nbytes for rows in self._rows.values() if rows.buffer.host)


def float32_array(buffer: Buffer, *shape: int) -> Float32Array:
    """The bytes of a host buffer as float32 [shape], without a copy."""
    return np.frombuffer(memoryview(buffer), np.float32).reshape(shape)


def int32_array(buffer: Buffer, *shape: int) -> Int32Array:
    """The bytes of a host buffer as int32 [shape], without a copy."""
    return np.frombuffer(memoryview(buffer), np.int32).reshape(shape)
