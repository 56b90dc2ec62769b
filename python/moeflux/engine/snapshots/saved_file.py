"""A file that gets its name once it is whole. Knows bytes, no state."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from moeflux.errors import SnapshotError

PARTIAL_SUFFIX = ".partial"


class SavedFile:
    """A file under construction beside `path`, which it replaces at once with `commit`.

    What a kill leaves is never at `path`, and the next file for it takes its place. Only the owner
    may read it, since tokens are a conversation. Raises SnapshotError, also where another process
    is writing a file for the same path, and for one of something that is no file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(path.name + PARTIAL_SUFFIX)
        self._descriptor = -1
        if path.exists() and not path.is_file():
            raise SnapshotError(f"{path}: is there already, and is no file", path)
        try:
            self._descriptor = self._open()
            os.ftruncate(self._descriptor, 0)
        except OSError as error:
            self._close()
            raise self._error(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._descriptor >= 0:
            self._partial.unlink(missing_ok=True)
            self._close()

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data` at `offset`."""
        rest = memoryview(data).cast("B")
        try:
            while rest:
                n_written = os.pwrite(self._descriptor, rest, offset)
                rest, offset = rest[n_written:], offset + n_written
        except OSError as error:
            raise self._error(error) from error

    def commit(self, *, durable: bool = True) -> None:
        """Give the file its name; durable: not before its bytes would survive a loss of power."""
        try:
            if durable:
                _synchronise(self._descriptor)
            self._partial.replace(self._path)
            self._close()
            if durable:
                folder = os.open(self._path.parent, os.O_RDONLY)
                try:
                    _synchronise(folder)
                finally:
                    os.close(folder)
        except OSError as error:
            raise self._error(error) from error

    def _open(self) -> int:
        """The partial file, locked, and still under its name once it is."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        while True:
            descriptor = os.open(self._partial, flags, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), self._partial.lstat()):
                    return descriptor
            except FileNotFoundError:
                pass  # another process has just renamed or removed it: the next one is ours
            except OSError:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _error(self, error: OSError) -> SnapshotError:
        if isinstance(error, BlockingIOError):
            return SnapshotError(f"{self._path}: another process is writing it", self._path)
        return SnapshotError(
            f"{self._path}: cannot be written: {error.strerror or error}", self._path
        )


def _synchronise(descriptor: int) -> None:
    # On macOS fsync leaves the data in the drive's own cache.
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is None:
        os.fsync(descriptor)
    else:
        fcntl.fcntl(descriptor, full)
