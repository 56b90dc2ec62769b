"""Stored prefixes in a folder, within a number of bytes, shared by processes.

One file per prefix, named by its key and its parent's; a file is used when it is read, which its
time tells. Whoever writes or removes holds a lock on the folder. Readers hold none: a file that
goes away under them is a prefix that is not there.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from moeflux.engine.prefixes.tree import KEY_LENGTH, dispensable
from moeflux.engine.snapshots.saved_file import PARTIAL_SUFFIX, SavedFile
from moeflux.engine.snapshots.source import FileSource
from moeflux.errors import SnapshotError

LOCK_NAME = "lock"
SUFFIX = ".prefix"
_NAME = re.compile(rf"([0-9a-f]{{{KEY_LENGTH}}})-([0-9a-f]{{{KEY_LENGTH}}}){re.escape(SUFFIX)}")


@dataclass(frozen=True)
class PrefixFile:
    """A file of the folder. `used` in nanoseconds."""

    path: Path
    parent: str
    nbytes: int
    used: int


class PrefixFolder:
    """Prefixes by key. Raises SnapshotError where the folder cannot be used."""

    def __init__(self, path: Path, nbytes: int) -> None:
        """Room for so many bytes in all."""
        self.path = path
        self._room = nbytes
        with _naming(path, "cannot be a folder of prefixes"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(self._open_lock())

    def files(self) -> dict[str, PrefixFile]:
        """What is there now."""
        files: dict[str, PrefixFile] = {}
        with _naming(self.path), os.scandir(self.path) as entries:
            for entry in entries:
                if (name := _NAME.fullmatch(entry.name)) is None:
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # another process has just removed it
                path = self.path / entry.name
                files[name[1]] = PrefixFile(path, name[2], status.st_size, status.st_mtime_ns)
        return files

    def open(self, file: PrefixFile) -> FileSource:
        """Raises SnapshotError, also if it has gone away."""
        return FileSource(file.path)

    def touch(self, file: PrefixFile) -> None:
        """It has been used now."""
        # Only the order in which files give way is lost where it is gone or somebody else's.
        with _naming(file.path), suppress(FileNotFoundError, PermissionError):
            os.utime(file.path)

    def remove(self, file: PrefixFile) -> None:
        """Such as one that is damaged."""
        with _naming(file.path):
            file.path.unlink(missing_ok=True)

    @contextmanager
    def adding(
        self, key: str, parent: str, nbytes: int, needed: Collection[str]
    ) -> Iterator[SavedFile | None]:
        """A new file of so many bytes, there from the end of the context on.

        None if there is no room beside those `needed`, or while another process writes.
        """
        with self._lock() as is_ours:
            if not is_ours or not self._make_room(key, nbytes, needed):
                yield None
                return
            with SavedFile(self.path / f"{key}-{parent}{SUFFIX}") as file:
                yield file
                file.commit(durable=False)

    def _make_room(self, key: str, nbytes: int, needed: Collection[str]) -> bool:
        files = self.files()
        for left in self.path.glob(f"*{PARTIAL_SUFFIX}"):
            left.unlink(missing_ok=True)  # of a process that was killed: writers hold the lock
        free = self._room - sum(file.nbytes for file in files.values())
        leaving = [files.pop(key)] if key in files else []
        free += sum(file.nbytes for file in leaving)
        for oldest in dispensable(files, needed):
            if free >= nbytes:
                break
            free += files[oldest].nbytes
            leaving.append(files[oldest])
        if free < nbytes:
            return False
        for file in leaving:
            self.remove(file)
        return True

    @contextmanager
    def _lock(self) -> Iterator[bool]:
        """Whether the folder is ours to change for the time of the context."""
        with _naming(self.path):
            descriptor = self._open_lock()
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def _open_lock(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self.path / LOCK_NAME, flags, 0o600)


@contextmanager
def _naming(path: Path, what: str = "cannot be used") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SnapshotError(f"{path}: {what}: {error.strerror or error}", path) from error
