"""Notices that a file in use was shortened or rewritten, before mapped weights are read from it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from moeflux.errors import CheckpointError, ReadError

N_SAMPLES = 16
SAMPLE_NBYTES = 4096


@dataclass(frozen=True)
class _Watched:
    path: Path
    descriptor: int
    nbytes: int
    modified: int


class FileWatch:
    """Size and modification time of open files, as they were when the watch began.

    A file that is renamed or unlinked stays open and as it was. Reading a page of a mapped file
    beyond its new end would kill the process, so a step checks first.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._files = [_open(path) for path in sorted(set(paths))]
        self._close = weakref.finalize(self, _close, [file.descriptor for file in self._files])

    def check(self) -> None:
        """Raises ReadError naming the first file that has changed since."""
        for file in self._files:
            status = os.fstat(file.descriptor)
            if status.st_size != file.nbytes:
                raise ReadError(
                    f"{file.path} changed while in use: it had {file.nbytes} bytes "
                    f"and has {status.st_size}; load the model again",
                    str(file.path),
                    wanted=file.nbytes,
                    got=status.st_size,
                )
            if status.st_mtime_ns != file.modified:
                raise ReadError(
                    f"{file.path} was rewritten while in use; load the model again", str(file.path)
                )

    def samples(self) -> Iterator[tuple[str, int, bytes]]:
        """Name, size and some bytes of each file, from all over it. Raises ReadError."""
        for file in self._files:
            last = max(0, file.nbytes - SAMPLE_NBYTES)
            places = {last * n // (N_SAMPLES - 1) for n in range(N_SAMPLES)}
            try:
                sample = b"".join(
                    os.pread(file.descriptor, SAMPLE_NBYTES, place) for place in sorted(places)
                )
            except OSError as error:
                raise ReadError(f"{file.path}: {error.strerror}", str(file.path)) from error
            yield file.path.name, file.nbytes, sample

    def close(self) -> None:
        """Close the files. Idempotent."""
        self._close()


def _open(path: Path) -> _Watched:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened: {error.strerror}") from error
    status = os.fstat(descriptor)
    return _Watched(path, descriptor, status.st_size, status.st_mtime_ns)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
