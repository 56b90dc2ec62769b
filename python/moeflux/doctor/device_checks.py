"""What a device says of itself, how fast it moves memory, and whether it captures GPU traces."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from moeflux._core import Device, Step, measure_read_bandwidth
from moeflux.capture import Capture
from moeflux.doctor.failures import EXPECTED, told
from moeflux.doctor.findings import Finding, Status
from moeflux.memory import available_memory, format_size

MEASURED_NBYTES = 256 * 2**20
"""Of memory: more than caches hold."""
N_COPIES = 5
SHORTEST_SECONDS = 1e-9
"""Where a clock is too coarse for a copy."""


def check_device(device: Device) -> Iterator[Finding]:
    """Name, kernels and limits."""
    kernels = device.kernels()
    said = f"{device.name}: {device.description}; {len(kernels)} kernels"
    yield Finding("device", "device", Status.OK, said, values={"kernels": kernels})
    limits = device.memory()
    if not limits:
        yield Finding("device", "limits", Status.ABSENT, "the device tells none")
        return
    said = ", ".join(
        f"{name.replace('_', ' ')} {format_size(nbytes)}" for name, nbytes in limits.items()
    )
    yield Finding("device", "limits", Status.OK, said, values=limits)


def check_memory_speed(device: Device, n_threads: int) -> Iterator[Finding]:
    """Reading by the processor, copying by the device."""
    nbytes = min(MEASURED_NBYTES, available_memory() // 8)
    reading = measure_read_bandwidth(nbytes, n_threads)
    yield Finding(
        "speed",
        "memory, processor",
        Status.OK,
        f"reads {format_size(reading)}/s",
        values={"bytes_per_second": reading},
    )
    copying = copy_bandwidth(device, nbytes)
    yield Finding(
        "speed",
        "memory, device",
        Status.OK,
        f"copies: {format_size(copying)}/s read and written",
        values={"bytes_per_second": copying},
    )


def copy_bandwidth(device: Device, nbytes: int) -> float:
    """Bytes per second that a device reads and writes, the best of a few copies of `nbytes`."""
    source, destination, queue = device.buffer(nbytes), device.buffer(nbytes), device.queue()
    best = float("inf")
    for _ in range(N_COPIES):
        command_buffer = queue.command_buffer(Step(0, 1), "copy bandwidth")
        command_buffer.copy(source, destination)
        command_buffer.commit()
        command_buffer.wait()
        best = min(best, command_buffer.gpu_seconds)
    return 2 * nbytes / max(best, SHORTEST_SECONDS)


def check_capture(device: Device) -> Iterator[Finding]:
    """A GPU trace of one command buffer, into a folder that is removed again."""
    if not device.supports_capture:
        said = "this device and process capture no GPU traces"
        advice = "On a Mac, set MTL_CAPTURE_ENABLED=1 before the program starts, if you want them."
        yield Finding("device", "GPU traces", Status.ABSENT, said, advice)
        return
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "doctor.gputrace"
        try:
            _capture(device, bundle)
        except EXPECTED as failure:
            advice = "Quit Xcode and other tools that capture; the rest of moeflux needs no traces."
            yield Finding("device", "GPU traces", Status.PROBLEM, told(failure), advice)
            return
        if bundle.exists():
            yield Finding("device", "GPU traces", Status.OK, "captured one command buffer")
            return
    said = "the capture ended without a trace"
    yield Finding("device", "GPU traces", Status.PROBLEM, said, "Look for space on the drive.")


def _capture(device: Device, bundle: Path) -> None:
    buffer, queue = device.buffer(64), device.queue()
    with Capture(device, bundle):
        command_buffer = queue.command_buffer(Step(0, 1), "doctor")
        command_buffer.zero(buffer)
        command_buffer.commit()
        command_buffer.wait()
