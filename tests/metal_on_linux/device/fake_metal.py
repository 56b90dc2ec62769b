"""The fake Metal's C interface for tests, and what most of them dispatch."""

from __future__ import annotations

import ctypes
import gc
import struct
import time

import numpy as np

from moeflux import _core

STEP = _core.Step(0, 1)
WIDTH = 64
RMS_NORM_PARAMS = struct.pack("<If", WIDTH, 1e-6)


class FakeMetal:
    """Settings to inject faults with, and figures to look at; see fake.h."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(_core.__file__)
        self._library.fake_metal_get.restype = ctypes.c_int64
        self._library.fake_metal_text.restype = ctypes.c_char_p
        self._library.fake_metal_misuse.restype = ctypes.c_char_p
        self._before: dict[str, int] = {}

    def __getitem__(self, name: str) -> int:
        return int(self._library.fake_metal_get(name.encode()))

    def __setitem__(self, name: str, value: int) -> None:
        self._before.setdefault(name, self[name])
        self._library.fake_metal_set(name.encode(), ctypes.c_int64(value))

    def live_objects(self) -> int:
        """How many objects there are when the queues' threads have let go of finished work."""
        gc.collect()
        deadline = time.monotonic() + 5
        while self["in_flight"] and time.monotonic() < deadline:
            time.sleep(0.001)
        count, since = self["live_objects"], time.monotonic()
        while time.monotonic() < since + 0.05:
            time.sleep(0.002)
            if self["live_objects"] != count:
                count, since = self["live_objects"], time.monotonic()
        return count

    def text(self, name: str) -> str:
        """The last text of that name."""
        return str(self._library.fake_metal_text(name.encode()).decode())

    def restore(self) -> None:
        for name, value in self._before.items():
            self._library.fake_metal_set(name.encode(), ctypes.c_int64(value))

    def misuse(self, name: str) -> str:
        """Does what the name says with the fake; gives what it said, or "" if it took it."""
        return str(self._library.fake_metal_misuse(name.encode()).decode())


class Norm:
    """An RMS norm of the numbers 1 .. WIDTH, and its right result."""

    def __init__(self, device: _core.Device) -> None:
        x = np.arange(1, WIDTH + 1, dtype=np.float32)
        out = device.buffer(4 * WIDTH, host=True)
        self.pipeline = device.pipeline("rms_norm", weight_dtype=0)
        self.buffers = [device.upload(x), device.upload(np.ones(WIDTH, np.float32)), out]
        self.out = np.frombuffer(out, np.float32)
        wide = x.astype(np.float64)
        self.wanted = wide / np.sqrt((wide * wide).mean() + 1e-6)

    def dispatch(self, encoder: _core.Encoder) -> None:
        encoder.dispatch(self.pipeline, self.buffers, RMS_NORM_PARAMS)

    def check(self) -> None:
        np.testing.assert_allclose(self.out, self.wanted, rtol=1e-5)


def committed(
    device: _core.Device, label: str = "work", norm: Norm | None = None
) -> _core.CommandBuffer:
    """A committed command buffer with one dispatch, or with one cleared buffer."""
    commands = device.queue().command_buffer(STEP, label)
    if norm is None:
        commands.zero(device.buffer(64))
    else:
        norm.dispatch(commands)
    commands.commit()
    return commands
