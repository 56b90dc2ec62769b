"""Stored prefixes wherever they are: in memory first, then in a folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager

from moeflux.engine.prefixes.folder import PrefixFile, PrefixFolder
from moeflux.engine.prefixes.memory import Image, PrefixMemory
from moeflux.engine.prefixes.tree import lineage
from moeflux.engine.snapshots.format import Source, Target
from moeflux.errors import SnapshotDamagedError, SnapshotError, SnapshotMismatchError

_log = logging.getLogger(__name__)


class PrefixTiers:
    """Both places as one. Errors of the folder are logged and counted; they cost a prefix each."""

    def __init__(self, memory: PrefixMemory, folder: PrefixFolder | None) -> None:
        self.memory = memory
        self._folder = folder
        self._files: dict[str, PrefixFile] = {}
        self.n_failed = 0

    def refresh(self) -> None:
        """See what the folder has now."""
        self._files = {}
        if self._folder is not None:
            try:
                self._files = self._folder.files()
            except SnapshotError as error:
                self._note(error)

    def has(self, key: str) -> bool:
        return key in self.memory or key in self._files

    def longest(self, keys: dict[int, str], root: str) -> tuple[int, list[str]]:
        """The last of the positions that is stored, and the prefixes that make it up; 0 if none."""
        for position in reversed(keys):
            chain = lineage(keys[position], root, (self.memory, self._files))
            if chain is not None:
                return position, chain
        return 0, []

    def open(self, key: str, needed: Collection[str]) -> AbstractContextManager[Source]:
        """A prefix to be read; a file becomes an image where that fits. Raises SnapshotError."""
        folder, file = self._folder, self._files.get(key)
        if folder is not None and file is not None:
            folder.touch(file)
            if key not in self.memory:
                source = folder.open(file)
                if not self.memory.make_room(source.nbytes, needed):
                    return source
                with source:
                    self.memory.add(key, file.parent, Image.of(source))
        return self.memory.open(key)

    def add(
        self, chain: Sequence[str], parent: str, nbytes: int, write: Callable[[Target], None]
    ) -> None:
        """Store the last prefix of a chain in memory or, where it does not fit, in the folder."""
        key = chain[-1]
        self.memory.remove(key)
        if self.memory.make_room(nbytes, chain):
            image = Image(f"prefix {key}", nbytes)
            write(image)
            self.memory.add(key, parent, image)
        elif all(ancestor in self._files for ancestor in chain[:-1]):
            self._write(key, parent, nbytes, chain, write)

    def complete(self, chain: Sequence[str]) -> None:
        """Write to the folder what it lacks of a chain, so that others and later runs have it."""
        for key in chain:
            self.memory.touch(key)
            if key in self._files:
                self._touch(self._files[key])
                continue
            if key not in self.memory:
                return
            kept = self.memory[key]
            if not self._write(key, kept.parent, kept.nbytes, chain, kept.image.copy_to):
                return

    def drop(self, key: str, error: SnapshotError) -> None:
        """Reading a prefix failed: forget it, and remove its file if that is not what it was."""
        self._note(error)
        self.memory.remove(key)
        file = self._files.pop(key, None)
        of_no_use = isinstance(error, SnapshotDamagedError | SnapshotMismatchError)
        if self._folder is None or file is None or not of_no_use:
            return
        try:
            self._folder.remove(file)
        except SnapshotError as failed:
            self._note(failed)

    def _write(
        self,
        key: str,
        parent: str,
        nbytes: int,
        needed: Collection[str],
        write: Callable[[Target], None],
    ) -> bool:
        if self._folder is None:
            return False
        try:
            with self._folder.adding(key, parent, nbytes, needed) as file:
                if file is not None:
                    write(file)
        except SnapshotError as error:
            self._note(error)
            return False
        if file is not None:
            self.refresh()
        return file is not None

    def _touch(self, file: PrefixFile) -> None:
        assert self._folder is not None
        try:
            self._folder.touch(file)
        except SnapshotError as error:
            self._note(error)

    def _note(self, error: SnapshotError) -> None:
        self.n_failed += 1
        _log.warning("a stored prefix is lost: %s", error)
