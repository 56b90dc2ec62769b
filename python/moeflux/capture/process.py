"""Captures of this process: Metal has one manager for it, so their state is the process's too."""

from __future__ import annotations

import threading
import weakref
from os import PathLike

from moeflux._core import Device
from moeflux.capture.trace import Capture, Target
from moeflux.errors import CaptureError


class Captures:
    """The devices that models use, and the capture that start_capture began."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._devices: weakref.WeakSet[Device] = weakref.WeakSet()
        self._started: Capture | None = None

    def add_device(self, device: Device) -> None:
        """A model works on this device."""
        with self._lock:
            self._devices.add(device)

    def remove_device(self, device: Device) -> None:
        """A model no longer does."""
        with self._lock:
            self._devices.discard(device)

    @property
    def under_way(self) -> bool:
        """Whether the process captures a GPU trace, whoever began it."""
        with self._lock:
            devices = list(self._devices)
            if self._started is not None:
                devices.append(self._started.device)
        return any(device.is_capturing for device in devices)

    def only_device(self) -> Device:
        """The device in use. Raises CaptureError unless there is exactly one."""
        with self._lock:
            devices = list(self._devices)
        if len(devices) != 1:
            raise CaptureError(
                f"{len(devices)} models are loaded: load one before the capture, or give the "
                "device to capture (model.device)"
            )
        return devices[0]

    def start(self, capture: Capture) -> None:
        with self._lock:
            capture.start()
            capture.begin()
            self._started = capture

    def stop(self) -> None:
        with self._lock:
            capture, self._started = self._started, None
        if capture is not None:
            capture.stop()


CAPTURES = Captures()


def capture(
    path: str | PathLike[str],
    device: Device | None = None,
    *,
    target: Target = "queue",
    overwrite: bool = False,
) -> Capture:
    """A GPU trace of what is committed inside: `with moeflux.capture("step.gputrace"): ...`.

    device: by default that of the one loaded model. overwrite: replace a trace at `path`. Entering
    it raises CaptureUnsupportedError where the device or the process cannot capture,
    AlreadyCapturingError during another capture, else CaptureError.
    """
    device = device if device is not None else CAPTURES.only_device()
    return Capture(device, path, target=target, overwrite=overwrite)


def start_capture(
    path: str | PathLike[str],
    device: Device | None = None,
    *,
    target: Target = "queue",
    overwrite: bool = False,
) -> None:
    """Trace what is committed from now until stop_capture. Arguments and errors as of capture."""
    CAPTURES.start(capture(path, device, target=target, overwrite=overwrite))


def stop_capture() -> None:
    """Wait for committed work, then write the trace that start_capture began, if it did."""
    CAPTURES.stop()


def is_capturing() -> bool:
    """Whether this process captures a GPU trace, whoever began it."""
    return CAPTURES.under_way
