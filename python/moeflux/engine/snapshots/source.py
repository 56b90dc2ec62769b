"""Where stored states are read from."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from moeflux.errors import SnapshotDamagedError, SnapshotError


class FileSource:
    """A state in a file, read through a descriptor; a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            status = os.fstat(self._descriptor)
        except OSError as error:
            raise self._error(error) from error
        self.nbytes = status.st_size
        if not stat.S_ISREG(status.st_mode):
            os.close(self._descriptor)
            raise SnapshotError(f"{path}: is not a file", path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def read_into(self, offset: int, destination: memoryview) -> None:
        """Fill `destination`. Raises SnapshotError, SnapshotDamagedError if the file ends."""
        got = 0
        while got < len(destination):
            try:
                n_read = os.preadv(self._descriptor, [destination[got:]], offset + got)
            except OSError as error:
                raise self._error(error) from error
            if n_read == 0:
                raise SnapshotDamagedError(
                    f"{self.path}: wanted {len(destination)} bytes at offset {offset}, got {got}",
                    self.path,
                )
            got += n_read

    def _error(self, error: OSError) -> SnapshotError:
        return SnapshotError(f"{self.path}: cannot be read: {error.strerror or error}", self.path)
