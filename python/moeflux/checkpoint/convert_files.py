"""Positioned reads of source files, and files that get their name when they are whole and durable.

Knows bytes, no weights.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from moeflux.errors import ConversionError, ReadError

PARTIAL_SUFFIX = ".partial"
RESULTS_AHEAD = 8
"""Of `in_order`: bounds what is in memory."""

_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Progress:
    """How many bytes of how many are done, and the file at work."""

    done_nbytes: int
    total_nbytes: int
    file: str


class SourceFiles:
    """Files opened once each for positioned reads, from any thread. Closed as a context manager.

    from_drive: bytes that the page cache holds are dropped from it first, where the system can.
    """

    def __init__(self, *, from_drive: bool = False) -> None:
        self._from_drive = from_drive
        self._descriptors: dict[Path, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def require(self, paths: Iterable[Path], *, experts: bool) -> None:
        """What follows reads these files, and routed experts of them only if it says so."""

    def release(self, paths: Iterable[Path]) -> None:
        """The routed experts of one more layer have been taken from these files."""

    def close(self, path: Path) -> None:
        """Let go of a file, which may be another one at its next read."""
        with self._lock:
            if path in self._descriptors:
                os.close(self._descriptors.pop(path))

    def read_into(self, path: Path, offset: int, destination: memoryview) -> None:
        """Fill `destination`. Raises ReadError, also if the file ends before."""
        wanted, got = len(destination), 0
        try:
            descriptor = self._open(path)
            while got < wanted:
                n_read = os.preadv(descriptor, [destination[got:]], offset + got)
                if n_read == 0:
                    break
                got += n_read
        except OSError as error:
            raise ReadError(
                f"{path}: {wanted} bytes at offset {offset}: {error.strerror}",
                str(path), offset, wanted, got, error.errno or 0,
            ) from error  # fmt: skip
        if got < wanted:
            raise ReadError(
                f"{path}: wanted {wanted} bytes at offset {offset}, got {got}: the file ends",
                str(path), offset, wanted, got,
            )  # fmt: skip

    def _open(self, path: Path) -> int:
        with self._lock:
            if path not in self._descriptors:
                descriptor = self._descriptors[path] = os.open(path, os.O_RDONLY)
                if self._from_drive and hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            return self._descriptors[path]


def in_order(
    workers: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """Results of `function` in the order of `items`; a few ahead are computed or wait."""
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(workers.submit(function, item))
            if len(waiting) > RESULTS_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


class PartialFile:
    """A file under construction, named with `PARTIAL_SUFFIX` until `commit`.

    Removed again if it is left without commit, save by a kill. Raises ConversionError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(path.name + PARTIAL_SUFFIX)
        with writing(self._partial):
            self._descriptor = os.open(
                self._partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._partial.unlink(missing_ok=True)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data` at `offset`."""
        rest = memoryview(data).cast("B")
        with writing(self._partial):
            while rest:
                n_written = os.pwrite(self._descriptor, rest, offset)
                rest, offset = rest[n_written:], offset + n_written

    def commit(self) -> None:
        """Make the bytes durable, then give the file its name."""
        with writing(self._partial):
            _synchronise(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
            self._partial.replace(self._path)
            synchronise_folder(self._path.parent)


def write_file(path: Path, data: bytes) -> None:
    """Replace the file by one with `data`, at once and durably. Raises ConversionError."""
    with PartialFile(path) as file:
        file.write(0, data)
        file.commit()


def synchronise_folder(folder: Path) -> None:
    """Make names that were added to or removed from the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _synchronise(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says to a write into a ConversionError that names the path."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL_ERRNOS:
            raise ConversionError(f"{path}: no space left to write it: {error.strerror}") from error
        raise ConversionError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder against other processes. Raises ConversionError if one of them holds it."""
    with writing(folder):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise ConversionError(f"{folder}: another process is converting into it") from error
        raise ConversionError(f"{folder}: cannot be locked: {error.strerror}") from error
    try:
        yield
    finally:
        os.close(descriptor)


def _synchronise(descriptor: int) -> None:
    # On macOS fsync leaves the data in the drive's own cache.
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is None:
        os.fsync(descriptor)
    else:
        fcntl.fcntl(descriptor, full)
