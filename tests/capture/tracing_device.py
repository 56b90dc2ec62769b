"""A stand-in for a device that captures GPU traces, and for the queue that it traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moeflux._core import CaptureTarget, CommandBuffer, Queue, Step
from moeflux.errors import AlreadyCapturingError, CaptureError, CaptureUnsupportedError


class TracingDevice:
    """Notes in `log` what is asked of it, and in each trace which command buffers it holds."""

    name = "metal"

    def __init__(self, *, supports_capture: bool = True) -> None:
        self.supports_capture = supports_capture
        self.is_capturing = False
        self.refusal = ""
        self.log: list[str] = []
        self._path = Path()
        self._lines: list[str] = []

    def start_capture(self, path: Path, target: CaptureTarget) -> None:
        if not self.supports_capture:
            raise CaptureUnsupportedError(f"cannot capture to {path}: set MTL_CAPTURE_ENABLED=1")
        if self.is_capturing:
            raise AlreadyCapturingError(f"cannot capture to {path}: another capture is under way")
        if self.refusal:
            raise CaptureError(self.refusal)
        path.mkdir()
        self.is_capturing, self._path, self._lines = True, path, []
        self.log.append(f"start {target.name.lower()}")

    def stop_capture(self) -> None:
        if self.is_capturing:
            self.is_capturing = False
            (self._path / "trace").write_text("\n".join(self._lines))
            self.log.append("stop")

    def begin_scope(self) -> None:
        self.log.append("begin scope")

    def end_scope(self) -> None:
        self.log.append("end scope")

    def trace(self, line: str) -> None:
        if self.is_capturing:
            self._lines.append(line)


class TracedQueue:
    """Hands out command buffers of `queue`, traced if made and committed during the capture."""

    def __init__(self, queue: Queue, device: TracingDevice) -> None:
        self._queue = queue
        self._device = device

    def command_buffer(self, step: Step, label: str = "") -> TracedCommandBuffer:
        return TracedCommandBuffer(self._queue.command_buffer(step, label), self._device)


class TracedCommandBuffer:
    """A command buffer that says when it is made and committed."""

    def __init__(self, commands: CommandBuffer, device: TracingDevice) -> None:
        self._commands = commands
        self._device = device
        self._made_inside = device.is_capturing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._commands, name)

    def commit(self) -> None:
        made = "" if self._made_inside else " (made before the capture)"
        self._device.trace(self._commands.label + made)
        self._commands.commit()


def traced(path: Path) -> list[str]:
    """Labels of the command buffers of a trace."""
    return (path / "trace").read_text().splitlines()
