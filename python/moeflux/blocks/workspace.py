"""Scratch activations shared by all layers of a model. Knows nothing of what they hold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moeflux._core import Buffer, Device
from moeflux.ops.operands import Activations


class Workspace:
    """Named float32 rows for up to `capacity` tokens, allocated at first use and then reused by every layer.

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


def host_array(
    buffer: Buffer, dtype: npt.DTypeLike, shape: tuple[int, ...]
) -> npt.NDArray[np.generic]:
    """The bytes of a host buffer as a NumPy array [shape], without a copy."""
    return np.frombuffer(buffer, dtype=dtype).reshape(shape)
