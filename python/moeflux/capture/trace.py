"""One GPU trace: its path, and its start and end on a device."""

from __future__ import annotations

import shutil
import weakref
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Literal, get_args

from moeflux._core import CaptureTarget, Device
from moeflux.errors import CaptureError

Target = Literal["queue", "device", "scope"]
"""What is recorded: the work of the device's queue, of the whole GPU, or between begin and end."""

SUFFIX = ".gputrace"


@dataclass
class _Recorder:
    """What a capture has begun on a device."""

    device: Device
    in_scope: bool = False

    def stop(self) -> None:
        try:
            if self.in_scope:
                self.device.end_scope()
        finally:
            self.device.stop_capture()


class Capture:
    """A GPU trace of a device's work, as a scope: `with Capture(device, path): ...`.

    Ends when it is stopped, left (also by an exception) or dropped, and at the latest with the
    process. A process has one trace at a time.
    """

    def __init__(
        self,
        device: Device,
        path: str | PathLike[str],
        *,
        target: Target = "queue",
        overwrite: bool = False,
    ) -> None:
        """`overwrite` replaces a trace at `path`, whose name must end in .gputrace then."""
        if target not in get_args(Target):
            wanted = ", ".join(get_args(Target))
            raise ValueError(f"target must be one of {wanted}, got {target!r}")
        self.device = device
        self.path = Path(path).absolute()
        self._target = CaptureTarget[target.upper()]
        self._overwrite = overwrite
        self._recorder: _Recorder | None = None
        self._end: weakref.finalize[[], Capture] | None = None

    def __repr__(self) -> str:
        state = "under way" if self.under_way else "not under way"
        return f"<Capture of {self.device.name} to {self.path}, {state}>"

    @property
    def under_way(self) -> bool:
        """Started and not stopped."""
        return self._end is not None and self._end.alive

    def start(self) -> None:
        """Trace what is committed from now on; for a scope, from begin on.

        Raises CaptureUnsupportedError where the device or the process cannot capture,
        AlreadyCapturingError during another capture, else CaptureError; a trace that was to be
        replaced is still there then.
        """
        replaced = self._move_away()
        try:
            self.device.start_capture(self.path, self._target)
        except BaseException:
            if replaced is not None:
                replaced.rename(self.path)
            raise
        self._recorder = _Recorder(self.device)
        self._end = weakref.finalize(self, self._recorder.stop)
        if replaced is not None:
            _remove(replaced)

    def begin(self) -> None:
        """Open the scope of a started capture; nothing for other targets, or if it is open."""
        recorder = self._recorder
        if self._target is not CaptureTarget.SCOPE or recorder is None or recorder.in_scope:
            return
        self.device.begin_scope()
        recorder.in_scope = True

    def stop(self) -> None:
        """Wait for committed work and write the trace. Does nothing unless under way."""
        if self._end is not None:
            self._end()

    def __enter__(self) -> Capture:
        self.start()
        self.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _move_away(self) -> Path | None:
        """Where a trace at the path is now; None if there was none or the start will fail."""
        if not self.device.supports_capture or self.device.is_capturing:
            return None
        what = f"cannot capture a GPU trace to {self.path}"
        if not self.path.parent.is_dir():
            raise CaptureError(f"{what}: there is no folder {self.path.parent}")
        if not (self.path.exists() or self.path.is_symlink()):
            return None
        if not self._overwrite:
            raise CaptureError(f"{what}: it exists, and overwrite was not asked for")
        if self.path.suffix != SUFFIX:
            raise CaptureError(f"{what}: it exists, and only names in {SUFFIX} are replaced")
        replaced = self.path.with_name(f".{self.path.name}.replaced")
        _remove(replaced)
        return self.path.rename(replaced)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
