"""What a real GPU answers to work that cannot succeed: typed errors, and an end that is no hang.

usage: python bench/gpu_faults.py memory|fault    (bench/gpu_checks.py runs both)
"""

from __future__ import annotations

import struct
import sys
import time

import numpy as np

from moeflux._core import Device, Step
from moeflux.backends import open_device
from moeflux.errors import CommandBufferError, DeviceError, OutOfMemoryError, PageFaultError

STEP = Step(0, 1)
WIDTH = 64
FAR = 1 << 28
"""Rows of 64 floats: 64 GiB, far beyond the one row that there is."""


def norm(device: Device, n_tokens: int) -> None:
    """Normalises one row, however many are asked for."""
    buffers = [device.upload(np.ones(WIDTH, np.float32)) for _ in range(3)]
    commands = device.queue().command_buffer(Step(0, n_tokens), "rows")
    pipeline = device.pipeline("rms_norm", weight_dtype=0)
    commands.dispatch(pipeline, buffers, struct.pack("<If", WIDTH, 1e-6))
    commands.commit()
    commands.wait()


def memory(device: Device) -> str:
    """More than there is, then as much as there is, then work again."""
    total = device.memory()["total"]
    try:
        device.buffer(2 * total)
    except OutOfMemoryError:
        pass
    else:
        raise AssertionError("twice the memory was given out")
    half = device.memory()["free"] // 2
    kept = [device.buffer(half)]
    try:
        kept += [device.buffer(half), device.buffer(half)]
    except OutOfMemoryError:
        pass
    else:
        raise AssertionError("one and a half times the memory was given out")
    kept.clear()
    norm(device, 1)
    return "out of memory is an error, and work goes on"


def fault(device: Device) -> str:
    """A kernel that runs far out of its buffers; the GPU takes no more work of this process."""
    norm(device, 1)
    started = time.perf_counter()
    try:
        norm(device, FAR)
    except PageFaultError as error:
        said = f"{type(error).__name__} {error.code}"
    else:
        raise AssertionError("a kernel ran far out of its buffers without an error")
    for use in (lambda: norm(device, 1), lambda: device.buffer(4096)):
        try:
            use()
        except (CommandBufferError, DeviceError):
            continue
        raise AssertionError("the GPU takes work after a fault")
    return f"{said} after {time.perf_counter() - started:.1f} s, then errors, no hang"


if __name__ == "__main__":
    print({"memory": memory, "fault": fault}[sys.argv[1]](open_device("cuda")))
