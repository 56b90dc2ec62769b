"""The format of stored states: a header that says what follows, and sections with checksums.

    8 bytes   "MOEFLUX" and a zero
    4 bytes   version, 4 bytes header length, 4 bytes CRC32C of the header; little endian
    header    JSON: what it is, and name, size and CRC32C of each section
    sections  one after the other, to the end of the file

Knows bytes, no model and no device.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from moeflux._core import crc32c
from moeflux.checkpoint.json_file import parse_object
from moeflux.engine.snapshots.identity import StateIdentity
from moeflux.errors import (
    CheckpointError,
    SnapshotDamagedError,
    SnapshotMismatchError,
)

MAGIC = b"MOEFLUX\0"
VERSION = 1
DTYPE = "float32"
MAX_HEADER_NBYTES = 2**24
_PRELUDE = struct.Struct("<8sIII")


@dataclass(frozen=True)
class StateHeader:
    """What a file holds: the state after `position` tokens, of which the rows from `first` on."""

    kind: str
    identity: StateIdentity
    parent: str
    """Of which file the rows before `first` are; "" for none."""
    first: int
    position: int
    context_size: int
    pieces: tuple[tuple[int, bool], ...]
    """How the tokens from `first` on came: how many at a time, and whether as a prompt."""


@dataclass(frozen=True)
class Part:
    """Bytes to be stored under a name, given piece by piece when they are asked for."""

    name: str
    nbytes: int
    read: Callable[[], Iterable[memoryview]]


@dataclass(frozen=True)
class Section:
    """Bytes stored under a name."""

    name: str
    nbytes: int
    checksum: int
    offset: int = 0


class Target(Protocol):
    """Where a state is written."""

    def write(self, offset: int, data: bytes | memoryview) -> None: ...


class Source(Protocol):
    """Where a state is read. `path` is for errors."""

    path: Path
    nbytes: int

    def read_into(self, offset: int, destination: memoryview) -> None: ...


def stored_nbytes(header: StateHeader, parts: Sequence[Part]) -> int:
    """Size of the file."""
    sections = [Section(part.name, part.nbytes, 0) for part in parts]
    return len(_encode(header, sections)) + sum(part.nbytes for part in parts)


def write_state(target: Target, header: StateHeader, parts: Sequence[Part]) -> None:
    """Write sections, then the header, without which the file is not one."""
    sections = [Section(part.name, part.nbytes, 0) for part in parts]
    offset = len(_encode(header, sections))
    for index, part in enumerate(parts):
        end, checksum = offset + part.nbytes, 0
        for data in part.read():
            checksum = crc32c(data, checksum)
            target.write(offset, data)
            offset += len(data)
        assert offset == end
        sections[index] = Section(part.name, part.nbytes, checksum)
    target.write(0, _encode(header, sections))


class StateReader:
    """A stored state, of which the header has been read and every length been checked.

    Raises SnapshotDamagedError for bytes that are not those written, SnapshotMismatchError for a
    file of another version of this format, SnapshotError where the source cannot be read.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        prelude = self._read(0, _PRELUDE.size, "prelude")
        magic, version, nbytes, checksum = _PRELUDE.unpack(prelude)
        if magic != MAGIC:
            raise self.damaged(f"no stored state: wanted {MAGIC!r} at its start, got {magic!r}")
        if version != VERSION:
            raise SnapshotMismatchError(
                f"{self.path}: has version {version}, this program reads version {VERSION}",
                self.path,
            )
        if nbytes > MAX_HEADER_NBYTES:
            raise self.damaged(f"the header claims {nbytes} bytes, the most is {MAX_HEADER_NBYTES}")
        text = self._read(_PRELUDE.size, nbytes, "header")
        self._check("header", crc32c(text), checksum)
        try:
            self.header, sections = _decode(parse_object(text, "header"))
        except (CheckpointError, KeyError, TypeError, ValueError) as error:
            raise self.damaged(f"the header is not that of a stored state: {error!r}") from error
        self.sections: dict[str, Section] = {}
        offset = _PRELUDE.size + nbytes
        for section in sections:
            self.sections[section.name] = replace(section, offset=offset)
            offset += section.nbytes
        if len(self.sections) < len(sections):
            raise self.damaged("two sections have the same name")
        if offset != source.nbytes:
            raise self.damaged(f"wanted {offset} bytes, got {source.nbytes}")

    @property
    def path(self) -> Path:
        return self._source.path

    def check_sections(self, wanted: Mapping[str, int]) -> None:
        """Raises SnapshotDamagedError unless the sections have these names and sizes."""
        got = {section.name: section.nbytes for section in self.sections.values()}
        for name in wanted.keys() | got.keys():
            if wanted.get(name) != got.get(name):
                raise self.damaged(
                    f"section {name!r}: wanted {_size(wanted, name)}, got {_size(got, name)}"
                )

    def stream(self, name: str, staging: memoryview) -> Iterator[memoryview]:
        """The bytes of a section, piece by piece in `staging`; a checksum follows the last one."""
        section, done, checksum = self.sections[name], 0, 0
        while done < section.nbytes:
            piece = staging[: min(len(staging), section.nbytes - done)]
            self._source.read_into(section.offset + done, piece)
            checksum = crc32c(piece, checksum)
            yield piece
            done += len(piece)
        self._check(f"section {name!r}", checksum, section.checksum)

    def read(self, name: str) -> bytes:
        """The bytes of a section that is small."""
        data = bytearray(self.sections[name].nbytes)
        for _ in self.stream(name, memoryview(data)):
            pass
        return bytes(data)

    def damaged(self, what: str) -> SnapshotDamagedError:
        return SnapshotDamagedError(f"{self.path}: {what}", self.path)

    def _read(self, offset: int, nbytes: int, what: str) -> bytes:
        available = self._source.nbytes - offset
        if nbytes > available:
            raise self.damaged(f"wanted {nbytes} bytes of {what}, got {max(0, available)}")
        data = bytearray(nbytes)
        self._source.read_into(offset, memoryview(data))
        return bytes(data)

    def _check(self, what: str, got: int, wanted: int) -> None:
        if got != wanted:
            raise self.damaged(f"{what}: wanted checksum {wanted:08x}, got {got:08x}")


def _size(sizes: Mapping[str, int], name: str) -> str:
    return f"{sizes[name]} bytes" if name in sizes else "none"


def _encode(header: StateHeader, sections: Sequence[Section]) -> bytes:
    """Prelude and header. The size does not depend on the checksums."""
    identity = header.identity
    values = {
        "kind": header.kind,
        "dtype": DTYPE,
        "model": identity.model,
        "device": identity.device,
        "program": identity.program,
        "parent": header.parent,
        "first": header.first,
        "position": header.position,
        "context_size": header.context_size,
        "pieces": [[n_tokens, prefill] for n_tokens, prefill in header.pieces],
        "sections": [[part.name, part.nbytes, f"{part.checksum:08x}"] for part in sections],
    }
    text = json.dumps(values).encode()
    return _PRELUDE.pack(MAGIC, VERSION, len(text), crc32c(text)) + text


def _decode(values: Mapping[str, object]) -> tuple[StateHeader, list[Section]]:
    """Raises KeyError, TypeError or ValueError for values that _encode does not write."""
    if _text(values["dtype"]) != DTYPE:
        raise ValueError(f"dtype must be {DTYPE}, got {values['dtype']!r}")
    header = StateHeader(
        kind=_text(values["kind"]),
        identity=StateIdentity(
            _text(values["model"]), _text(values["device"]), _text(values["program"])
        ),
        parent=_text(values["parent"]),
        first=_count(values["first"]),
        position=_count(values["position"]),
        context_size=_count(values["context_size"]),
        pieces=tuple((_count(n), _flag(prefill)) for n, prefill in _lists(values["pieces"], 2)),
    )
    if header.first + sum(n_tokens for n_tokens, _ in header.pieces) != header.position:
        raise ValueError("the pieces do not add up to the position")
    sections = [
        Section(_text(name), _count(nbytes), int(_text(checksum), 16))
        for name, nbytes, checksum in _lists(values["sections"], 3)
    ]
    return header, sections


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"wanted text, got {value!r}")
    return value


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise TypeError(f"wanted a count, got {value!r:.80}")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"wanted true or false, got {value!r:.80}")
    return value


def _lists(value: object, length: int) -> list[list[object]]:
    if not isinstance(value, list) or not all(
        isinstance(item, list) and len(item) == length for item in value
    ):
        raise TypeError(f"wanted lists of {length}, got {value!r:.80}")
    return value
