"""Arrays on a device: put there, used by one command buffer, and taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from moeflux._core import Buffer, CommandBuffer, Device, Step
from moeflux.doctor.stored import StoredMatrix, StoredVector
from moeflux.ops.operands import Activations, ExpertMatrixPlace, ExpertPlaces, Matrix, Vector

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Tokens:
    """So many tokens from a position on, decoded or part of a prompt."""

    count: int
    position: int = 0
    prefill: bool = False

    def __str__(self) -> str:
        tokens = "1 token" if self.count == 1 else f"{self.count} tokens"
        return f"{tokens} of a prompt" if self.prefill else tokens


class DeviceArrays:
    """Operands of ops, and what ops have written."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def rows(self, array: Array) -> Activations:
        """Float32 rows along the first axis."""
        single = np.ascontiguousarray(array, np.float32)
        return Activations(self._device.upload(single.tobytes()), single[0].size)

    def unwritten(self, n_rows: int, width: int) -> Activations:
        """Rows of NaN, so that a value that no kernel writes is seen."""
        return self.rows(np.full((n_rows, width), np.nan))

    def floats(self, array: Array) -> Buffer:
        """A state of float32 values."""
        return self._device.upload(array.astype(np.float32).tobytes())

    def integers(self, values: Sequence[int]) -> Buffer:
        """Int32 values that the host can read again."""
        buffer = self._device.buffer(4 * len(values), host=True)
        np.frombuffer(memoryview(buffer), np.int32)[:] = values
        return buffer

    def vector(self, stored: StoredVector) -> Vector:
        return Vector(self._device.upload(stored.data), stored.values.size, stored.dtype)

    def matrix(self, stored: StoredMatrix, misalignment: int = 0) -> Matrix:
        """Its parts begin `misalignment` bytes after an aligned address, as in files."""
        weight, scales, biases = (
            self._device.upload(bytes(misalignment) + part).view(misalignment, len(part))
            if part
            else None
            for part in stored.parts
        )
        assert weight is not None
        return Matrix(stored.rows, stored.cols, stored.form, weight, scales, biases)

    def slots(self, experts: Sequence[Sequence[StoredMatrix]]) -> tuple[Buffer, int, ExpertPlaces]:
        """Experts (gate_proj, up_proj, down_proj) one after the other, their parts unaligned."""
        contents = [
            b"".join(part + b"\xff" for stored in expert for part in stored.parts)
            for expert in experts
        ]
        nbytes = [len(part) + 1 for stored in experts[0] for part in stored.parts]
        offsets = [0, *accumulate(nbytes)]
        places = ExpertPlaces(
            *(
                ExpertMatrixPlace(
                    stored.rows, stored.cols, stored.form, *offsets[3 * i : 3 * i + 3]
                )
                for i, stored in enumerate(experts[0])
            )
        )
        return self._device.upload(b"".join(contents)), len(contents[0]), places

    def run(self, tokens: Tokens, encode: Callable[[CommandBuffer], None]) -> None:
        """Wait for what `encode` dispatches. Raises DeviceError."""
        step = Step(tokens.position, tokens.count, prefill=tokens.prefill)
        command_buffer = self._device.queue().command_buffer(step, "doctor")
        encode(command_buffer)
        command_buffer.commit()
        command_buffer.wait()

    def read(self, written: Activations | Buffer) -> Array:
        """Float32 values, [rows, width] of activations."""
        if isinstance(written, Activations):
            values = np.frombuffer(self._device.download(written.buffer), np.float32)
            return values.reshape(written.capacity, written.width)
        return np.frombuffer(self._device.download(written), np.float32)

    def read_integers(self, written: Buffer) -> Array:
        return np.frombuffer(self._device.download(written), np.int32)
