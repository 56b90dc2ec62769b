"""The header of one safetensors file: which tensors it holds and where. Reads no tensor data.

Format (safetensors README): 8 bytes header length N, little endian; N bytes of JSON that map names
to dtype, shape and data_offsets [begin, end) from the end of the header; then the data, which the
tensors cover exactly: no two overlap, no byte belongs to none.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moeflux.checkpoint.json_file import MAX_NBYTES, parse_object, unreadable
from moeflux.errors import CheckpointError

DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "I8": 8,
    "U8": 8,
    "BF16": 16,
    "F16": 16,
    "I16": 16,
    "U16": 16,
    "F32": 32,
    "I32": 32,
    "U32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
MAX_RANK = 64
_MAX_SIZE = 2**63 - 1
_LENGTH_NBYTES = 8


@dataclass(frozen=True)
class TensorEntry:
    """A tensor in a file, of which it covers the bytes offset .. offset + nbytes - 1."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int


@dataclass(frozen=True)
class _DataSection:
    """The bytes of a file behind its header."""

    path: Path
    offset: int
    nbytes: int


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of the safetensors file at `path`, by name.

    Raises CheckpointError, naming file and tensor, for whatever the format does not allow.
    """
    header, section = _read_header_text(path)
    if not header.startswith(b"{"):
        raise CheckpointError(f"{path}: the header must begin with '{{', got {header[:1]!r}")
    tensors: dict[str, TensorEntry] = {}
    for name, fields in parse_object(header, f"{path}: header").items():
        if name == "__metadata__":
            _check_metadata(fields, path)
        else:
            tensors[name] = _tensor(name, fields, section)
    _check_coverage(tensors, section)
    return tensors


def _read_header_text(path: Path) -> tuple[bytes, _DataSection]:
    try:
        with path.open("rb") as file:
            file_nbytes = os.fstat(file.fileno()).st_size
            length = file.read(_LENGTH_NBYTES)
            if len(length) < _LENGTH_NBYTES:
                raise CheckpointError(
                    f"{path}: wanted at least {_LENGTH_NBYTES} bytes of a safetensors file, "
                    f"got {len(length)}"
                )
            header_nbytes = int.from_bytes(length, "little")
            available = file_nbytes - _LENGTH_NBYTES
            if header_nbytes > min(available, MAX_NBYTES):
                raise CheckpointError(
                    f"{path}: the header claims {header_nbytes} bytes; the file has {available} "
                    f"behind the length, and {MAX_NBYTES} is the limit"
                )
            header = file.read(header_nbytes)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(header) != header_nbytes:
        raise CheckpointError(f"{path}: wanted {header_nbytes} bytes of header, got {len(header)}")
    return header, _DataSection(path, _LENGTH_NBYTES + header_nbytes, available - header_nbytes)


def _check_metadata(metadata: object, path: Path) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{path}: __metadata__ must map strings to strings")


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_SIZE


def _sizes(fields: dict[str, object], key: str, source: str) -> tuple[int, ...]:
    values = fields.get(key)
    if not isinstance(values, list) or len(values) > MAX_RANK or not all(map(_is_size, values)):
        raise CheckpointError(
            f"{source}: {key} must be a list of at most {MAX_RANK} sizes of 0 to 2^63 - 1, "
            f"got {_shortened(values)}"
        )
    return tuple(values)


def _shortened(value: object) -> str:
    # A hostile integer may have more digits than repr agrees to print.
    if isinstance(value, list):
        return (
            "["
            + ", ".join(_shortened(item) for item in value[:8])
            + (", ...]" if value[8:] else "]")
        )
    if isinstance(value, int) and abs(value) > 2 * _MAX_SIZE:
        return f"an integer of {value.bit_length()} bits"
    return repr(value)[:80]


def _tensor(name: str, fields: object, section: _DataSection) -> TensorEntry:
    source = f"{section.path}: tensor {name!r}"
    if not isinstance(fields, dict):
        raise CheckpointError(
            f"{source}: wanted dtype, shape and data_offsets, got {_shortened(fields)}"
        )
    dtype = fields.get("dtype")
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise CheckpointError(
            f"{source}: unknown dtype {_shortened(dtype)}; known: {', '.join(DTYPE_BITS)}"
        )
    shape = _sizes(fields, "shape", source)
    offsets = _sizes(fields, "data_offsets", source)
    if len(offsets) != 2 or offsets[1] < offsets[0]:
        raise CheckpointError(f"{source}: data_offsets must be [begin, end], got {list(offsets)}")
    begin, end = offsets
    if end > section.nbytes:
        raise CheckpointError(
            f"{source}: ends at byte {end} of the data, of which the file has {section.nbytes}"
        )
    # Zeros are left out so that a zero does not hide that the other sizes overflow.
    if math.prod(size for size in shape if size) * DTYPE_BITS[dtype] > 8 * _MAX_SIZE:
        raise CheckpointError(f"{source}: shape {list(shape)} of {dtype} overflows 64 bits")
    nbits = math.prod(shape) * DTYPE_BITS[dtype]
    if nbits != 8 * (end - begin):
        needed = f"{nbits} bits" if nbits % 8 else f"{nbits // 8} bytes"
        raise CheckpointError(
            f"{source}: shape {list(shape)} of {dtype} needs {needed}, "
            f"data_offsets {list(offsets)} give {end - begin} bytes"
        )
    return TensorEntry(name, dtype, shape, section.path, section.offset + begin, end - begin)


def _check_coverage(tensors: dict[str, TensorEntry], section: _DataSection) -> None:
    end, last = section.offset, "the header"
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.nbytes)):
        source = f"{section.path}: tensor {tensor.name!r}"
        if tensor.offset < end:
            raise CheckpointError(f"{source}: overlaps {last} by {end - tensor.offset} bytes")
        if tensor.offset > end:
            raise CheckpointError(
                f"{source}: {tensor.offset - end} bytes between it and {last} belong to no tensor"
            )
        end, last = tensor.offset + tensor.nbytes, f"tensor {tensor.name!r}"
    unused = section.offset + section.nbytes - end
    if unused:
        raise CheckpointError(f"{section.path}: {unused} bytes behind {last} belong to no tensor")
