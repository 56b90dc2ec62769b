"""One kernel that every test of the backend can run: an RMS norm of 64 numbers."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moeflux import _core

STEP = _core.Step(0, 1)
WIDTH = 64
EPSILON = 1e-6
PARAMS = struct.pack("<If", WIDTH, EPSILON)
X = np.arange(1, WIDTH + 1, dtype=np.float32)
NORMED = X / np.sqrt((X.astype(np.float64) ** 2).mean() + EPSILON)


@dataclass(frozen=True)
class Norm:
    """The operands of one dispatch."""

    pipeline: _core.Pipeline
    buffers: list[_core.Buffer]
    out: npt.NDArray[np.float32]

    def encode(self, encoder: _core.CommandBuffer | _core.Recording) -> None:
        encoder.dispatch(self.pipeline, self.buffers, PARAMS)


def norm_on(device: _core.Device) -> Norm:
    out = device.buffer(4 * WIDTH, host=True)
    buffers = [device.upload(X), device.upload(np.ones(WIDTH, np.float32)), out]
    pipeline = device.pipeline("rms_norm", weight_dtype=0)
    return Norm(pipeline, buffers, np.frombuffer(out, np.float32))


def committed(device: _core.Device, norm: Norm, label: str = "norm") -> _core.CommandBuffer:
    """A command buffer with one norm, under way."""
    commands = device.queue().command_buffer(STEP, label)
    norm.encode(commands)
    commands.commit()
    return commands
