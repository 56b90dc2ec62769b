"""Stored states taken apart and put together again, by the format's description alone."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moeflux._core import crc32c

PRELUDE = struct.Struct("<8sIII")


@dataclass
class StoredState:
    """Magic, version, header and the bytes of each section by name."""

    magic: bytes
    version: int
    header: dict[str, Any]
    sections: dict[str, bytes]

    @classmethod
    def read(cls, path: Path) -> StoredState:
        data = path.read_bytes()
        magic, version, nbytes, _ = PRELUDE.unpack_from(data)
        header = json.loads(data[PRELUDE.size : PRELUDE.size + nbytes])
        sections, offset = {}, PRELUDE.size + nbytes
        for name, size, checksum in header["sections"]:
            sections[name] = data[offset : offset + size]
            assert crc32c(sections[name]) == int(checksum, 16)
            offset += size
        assert offset == len(data)
        return cls(magic, version, header, sections)

    def write(self, path: Path) -> None:
        """With the checksum of the header as it is now."""
        text = json.dumps(self.header).encode()
        prelude = PRELUDE.pack(self.magic, self.version, len(text), crc32c(text))
        path.write_bytes(prelude + text + b"".join(self.sections.values()))

    def replace_section(self, name: str, data: bytes) -> None:
        """Also where the header tells its size and checksum."""
        self.sections[name] = data
        for entry in self.header["sections"]:
            if entry[0] == name:
                entry[1:] = [len(data), f"{crc32c(data):08x}"]


def edited(path: Path, edit: Callable[[StoredState], object]) -> Path:
    """The file, after a change that keeps its checksums right."""
    state = StoredState.read(path)
    edit(state)
    state.write(path)
    return path
