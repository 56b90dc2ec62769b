"""Stored prefixes in memory, within a number of bytes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from moeflux.engine.prefixes.tree import dispensable
from moeflux.engine.snapshots.format import Source, Target


class Image:
    """The bytes of a stored state, to be written and read like a file."""

    def __init__(self, name: str, nbytes: int) -> None:
        self.path = Path(name)
        self.nbytes = nbytes
        self._data = memoryview(bytearray(nbytes))

    @classmethod
    def of(cls, source: Source) -> Image:
        """A copy. Raises SnapshotError."""
        image = cls(str(source.path), source.nbytes)
        source.read_into(0, memoryview(image._data))
        return image

    def copy_to(self, target: Target) -> None:
        """Write all of it."""
        target.write(0, self._data)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self._data[offset : offset + len(data)] = data

    def read_into(self, offset: int, destination: memoryview) -> None:
        destination[:] = self._data[offset : offset + len(destination)]


@dataclass
class _Kept:
    image: Image
    parent: str
    used: int

    @property
    def nbytes(self) -> int:
        return self.image.nbytes


class PrefixMemory(Mapping[str, _Kept]):
    """Images by key. The least recently used give way, those without children first."""

    def __init__(self, nbytes: int) -> None:
        """Room for so many bytes in all."""
        self._room = nbytes
        self._kept: dict[str, _Kept] = {}
        self._clock = count()
        self.used_nbytes = 0
        """Bytes of all images."""

    def __getitem__(self, key: str) -> _Kept:
        return self._kept[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def make_room(self, nbytes: int, needed: Collection[str]) -> bool:
        """Let others than those `needed` give way until so many bytes fit; False if they never do.

        Then nothing gives way.
        """
        free = self._room - self.used_nbytes
        leaving: list[str] = []
        for key in dispensable(self, needed):
            if free >= nbytes:
                break
            free += self._kept[key].nbytes
            leaving.append(key)
        if free < nbytes:
            return False
        for key in leaving:
            self.remove(key)
        return True

    def add(self, key: str, parent: str, image: Image) -> None:
        """Keep an image that is new and for which there is room."""
        self._kept[key] = _Kept(image, parent, next(self._clock))
        self.used_nbytes += image.nbytes

    def touch(self, key: str) -> None:
        """It has been used now."""
        if key in self._kept:
            self._kept[key].used = next(self._clock)

    def remove(self, key: str) -> None:
        """Forget it, if it is there."""
        if (kept := self._kept.pop(key, None)) is not None:
            self.used_nbytes -= kept.nbytes

    def open(self, key: str) -> AbstractContextManager[Source]:
        """To be read."""
        self.touch(key)
        return nullcontext(self._kept[key].image)
