"""Route traces: which experts every token routed to, as a file. Knows no slots and no model.

Format, version 1, little-endian. One line of JSON, ended by a newline, with the keys of TraceHeader
and "format" and "version"; then records of equal size, one per token:

    offset  type                 what
    0       u32                  sequence: a document or conversation; changes where state is reset
    4       u32                  position in the sequence
    8       u32                  chunk: the position of the first token of its prefill chunk; the
                                 position itself for a decode step
    12      u32                  1 for a prefill token, 0 for a decode step
    16      u16[n_layers, top_k] routed experts, best first; 65535 where fewer were routed
    ...     u16[n_layers, n_predicted]  experts that the router of the layer before would have
                                 chosen for this layer, best first; 65535 for none
    last 4  u32                  CRC-32 of the record's bytes before it

A line of JSON can be read by any tool; fixed-size records can be appended while a model runs, found
by multiplication, checked one by one, and cut short by a crash without harm to those before. Ids as
text would take four times the space and most of a replay's time. A layer here is a layer with
experts, counted from 0. A file may be gzip-compressed as a whole, for reading only.
"""

from __future__ import annotations

import gzip
import json
import struct
import sys
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, cast

from moeflux.errors import MoefluxError

FORMAT = "moeflux route trace"
VERSION = 1
MAX_HEADER_NBYTES = 1 << 20
_NO_EXPERT = 0xFFFF
_GZIP_MAGIC = b"\x1f\x8b"
_PREFIX = struct.Struct("<IIII")
_CHECKSUM = struct.Struct("<I")


class TraceError(MoefluxError):
    """A route trace is damaged, cut short, or of another format or model. Names the file."""


@dataclass(frozen=True)
class TraceHeader:
    """The model that a trace is of. Raises ValueError for sizes that no model has."""

    model_type: str
    n_layers: int
    """Layers with experts."""
    n_experts: int
    """Routed experts per layer."""
    top_k: int
    record_nbytes: tuple[int, ...]
    """Bytes of one expert, per layer."""
    n_predicted: int = 0
    """Predicted experts per layer that each record holds besides."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        if type(self.model_type) is not str:
            raise ValueError(f"model_type must be a string, got {self.model_type!r}")
        for name, low, high in (
            ("n_layers", 1, 4096),
            ("n_experts", 1, _NO_EXPERT),
            ("top_k", 1, min(self.n_experts, 1024)),
            ("n_predicted", 0, min(self.n_experts, 1024)),
        ):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{name} must be from {low} to {high}, got {value!r}")
        if len(self.record_nbytes) != self.n_layers:
            raise ValueError(
                f"record_nbytes must have {self.n_layers} values, got {len(self.record_nbytes)}"
            )
        if any(type(nbytes) is not int or nbytes < 1 for nbytes in self.record_nbytes):
            raise ValueError(f"record_nbytes must be positive, got {self.record_nbytes}")

    @property
    def token_nbytes(self) -> int:
        """Bytes of one record of the file."""
        n_ids = self.n_layers * (self.top_k + self.n_predicted)
        return _PREFIX.size + 2 * n_ids + _CHECKSUM.size


@dataclass(frozen=True)
class TokenRoutes:
    """What one token routed to."""

    sequence: int
    position: int
    chunk: int
    """Position of the first token of the prefill chunk; its own position for a decode step."""
    prefill: bool
    experts: tuple[tuple[int, ...], ...]
    """Per layer, best first, at most top_k."""
    predicted: tuple[tuple[int, ...], ...] = ()
    """Per layer, from the layer before; empty if the trace holds none."""


@dataclass(frozen=True)
class Trace:
    """A whole trace in memory."""

    header: TraceHeader
    tokens: tuple[TokenRoutes, ...]


class TraceWriter:
    """Appends tokens to a trace file, which is made if it does not exist.

    A record that a crash cut short is dropped first. Raises TraceError if the file is of another
    model or no trace.
    """

    def __init__(self, path: Path, header: TraceHeader) -> None:
        self.header = header
        self._file: BinaryIO = path.open("ab+")
        try:
            self._seek_end(path)
        except BaseException:
            self._file.close()
            raise

    def write(self, token: TokenRoutes) -> None:
        """Append one token. Raises ValueError if its routes do not fit the header."""
        header = self.header
        prefix = _PREFIX.pack(token.sequence, token.position, token.chunk, int(token.prefill))
        body = prefix + _pack(token.experts, header.n_layers, header.top_k, header.n_experts)
        if header.n_predicted:
            predicted = token.predicted
            body += _pack(predicted, header.n_layers, header.n_predicted, header.n_experts)
        self._file.write(body + _CHECKSUM.pack(zlib.crc32(body)))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def _seek_end(self, path: Path) -> None:
        nbytes = self._file.seek(0, 2)
        if nbytes == 0:
            fields = {"format": FORMAT, "version": VERSION, **asdict(self.header)}
            self._file.write(json.dumps(fields).encode() + b"\n")
            self._file.flush()
            return
        self._file.seek(0)
        header, start = _read_header(self._file, path)
        if header != self.header:
            raise TraceError(f"{path}: is a trace of {header}, wanted {self.header}")
        self._file.truncate(nbytes - (nbytes - start) % header.token_nbytes)


class TraceReader:
    """Reads a trace one token at a time, in memory bounded by the size of a record.

    Raises TraceError on opening for a bad header, and while iterating for a bad record, after all
    good ones before it have been given.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        plain = path.open("rb")
        compressed = plain.read(2) == _GZIP_MAGIC
        plain.seek(0)
        self._plain: BinaryIO = plain
        self._file = cast("BinaryIO", gzip.GzipFile(fileobj=plain)) if compressed else plain
        try:
            self.header, _ = _read_header(self._file, path)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[TokenRoutes]:
        """The tokens that have not been read yet."""
        index = 0
        while record := _read(self._file, self.header.token_nbytes, self._path):
            yield self._unpack(record, index)
            index += 1

    def close(self) -> None:
        self._file.close()
        self._plain.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def _unpack(self, record: bytes, index: int) -> TokenRoutes:
        header, where = self.header, f"{self._path}: record {index}"
        if len(record) < header.token_nbytes:
            raise TraceError(f"{where} has {len(record)} bytes, wanted {header.token_nbytes}")
        body = record[: -_CHECKSUM.size]
        (wanted,) = _CHECKSUM.unpack(record[-_CHECKSUM.size :])
        if zlib.crc32(body) != wanted:
            raise TraceError(f"{where} has CRC {zlib.crc32(body):08x}, wanted {wanted:08x}")
        sequence, position, chunk, kind = _PREFIX.unpack_from(body)
        ids = array("H", body[_PREFIX.size :])
        if sys.byteorder == "big":
            ids.byteswap()
        if kind > 1 or any(header.n_experts <= expert < _NO_EXPERT for expert in ids):
            raise TraceError(f"{where} has a kind or an expert that the header does not allow")
        n_routed = header.n_layers * header.top_k
        return TokenRoutes(
            sequence,
            position,
            chunk,
            bool(kind),
            _rows(ids[:n_routed], header.top_k),
            _rows(ids[n_routed:], header.n_predicted) if header.n_predicted else (),
        )


def load(path: Path, max_tokens: int = 1 << 20) -> Trace:
    """A whole trace. Raises TraceError if it is damaged or has more tokens."""
    tokens: list[TokenRoutes] = []
    with TraceReader(path) as reader:
        for token in reader:
            if len(tokens) == max_tokens:
                raise TraceError(f"{path}: has more than {max_tokens} tokens")
            tokens.append(token)
        return Trace(reader.header, tuple(tokens))


def _read(file: BinaryIO, nbytes: int, path: Path) -> bytes:
    try:
        return file.read(nbytes)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TraceError(f"{path}: damaged gzip stream: {error}") from error


def _read_header(file: BinaryIO, path: Path) -> tuple[TraceHeader, int]:
    """The header, and the offset of the first record."""
    try:
        line = file.readline(MAX_HEADER_NBYTES)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TraceError(f"{path}: damaged gzip stream: {error}") from error
    try:
        fields = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):  # not JSON, not UTF-8, or nested too deep
        fields = None
    if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
        raise TraceError(f"{path}: is not a {FORMAT}, its first line is {line[:64]!r}")
    version = fields.pop("version", None)
    if version != VERSION:
        raise TraceError(f"{path}: has version {version!r}, wanted {VERSION}")
    try:
        fields["record_nbytes"] = tuple(fields["record_nbytes"])
        return TraceHeader(**fields), len(line)
    except (KeyError, TypeError, ValueError) as error:
        raise TraceError(f"{path}: has a bad header: {error}") from error


def _pack(rows: Sequence[Sequence[int]], n_rows: int, width: int, n_experts: int) -> bytes:
    if len(rows) != n_rows or any(len(row) > width for row in rows):
        got = [len(row) for row in rows]
        raise ValueError(f"routes must have {n_rows} layers of at most {width} experts, got {got}")
    ids = array("H")
    for row in rows:
        if any(not 0 <= expert < n_experts for expert in row):
            raise ValueError(f"experts must be from 0 to {n_experts - 1}, got {tuple(row)}")
        ids.extend([*row, *[_NO_EXPERT] * (width - len(row))])
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tobytes()


def _rows(ids: Iterable[int], width: int) -> tuple[tuple[int, ...], ...]:
    flat = list(ids)
    rows = (flat[start : start + width] for start in range(0, len(flat), width))
    return tuple(tuple(expert for expert in row if expert != _NO_EXPERT) for row in rows)
