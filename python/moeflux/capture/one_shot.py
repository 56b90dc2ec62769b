"""The one-shot capture: a scope on the queue, once per process, asked for with a path.

A capture that fails is a warning and never costs a run.
"""

from __future__ import annotations

import logging
import threading

from moeflux._core import Device
from moeflux.capture.trace import Capture
from moeflux.errors import DeviceError

_log = logging.getLogger(__name__)

ENABLE = "MTL_CAPTURE_ENABLED=1 (before macOS 14: METAL_CAPTURE_ENABLED=1)"


class Latch:
    """Can be taken once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False

    def take(self) -> bool:
        """True for the first caller only."""
        with self._lock:
            first, self._taken = not self._taken, True
        return first

    def reset(self) -> None:
        """As if nobody had taken it."""
        with self._lock:
            self._taken = False


PROCESS_LATCH = Latch()
"""Of the process, like Metal's capture manager."""


class OneShotCapture:
    """A started capture, whose scope opens at begin and closes, with the trace, at end.

    Dropped, it ends too, begun or not.
    """

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self.started = False
        """Between begin and end."""

    @classmethod
    def take(cls, device: Device, path: str, latch: Latch = PROCESS_LATCH) -> OneShotCapture | None:
        """The capture of a process that was asked to write `path`; None, with a reason, if not.

        The first call with a path takes the latch, whatever comes of it; later ones give None.
        """
        if not path or not latch.take():
            return None
        if not device.supports_capture:
            _log.warning("no GPU trace at %s: %s", path, why_unsupported(device))
            return None
        capture = Capture(device, path, target="scope", overwrite=True)
        try:
            capture.start()
        except (DeviceError, OSError) as error:
            _log.warning("%s; is %s set?", error, ENABLE)
            return None
        _log.warning("capturing a GPU trace to %s", path)
        return cls(capture)

    def begin(self) -> None:
        """Open the scope; nothing if it has been opened before."""
        if not self.started and self._capture.under_way:
            self._capture.begin()
            self.started = True

    def end(self) -> None:
        """Close the scope and write the trace; nothing unless begun."""
        if self.started:
            self.started = False
            self._capture.stop()
            _log.warning("GPU trace: %s", self._capture.path)

    def close(self) -> None:
        """Stop capturing, begun or not. Idempotent."""
        self.end()
        self._capture.stop()

    def __enter__(self) -> OneShotCapture:
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def why_unsupported(device: Device) -> str:
    """What a user can do about a device that cannot capture."""
    return f"the {device.name} device captures none, or the process was started without {ENABLE}"
