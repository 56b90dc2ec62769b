"""The manifest of a packed checkpoint: what its files hold, and their checksums. Reads no weights.

A packed folder holds

- experts/layer_NN.bin: one record per expert of layer NN, at expert * record_nbytes;
- dense.safetensors: all other weights, every tensor at a multiple of 64 bytes;
- configuration and tokenizer files;
- moeflux.json, this manifest, which is written last: a folder without it is not whole.

Checksums are CRC32C. The journal of an unfinished conversion is a manifest under another name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from moeflux.checkpoint.config_reader import ConfigReader
from moeflux.checkpoint.experts import (
    BLOCK_ALIGNMENT,
    ExpertShape,
    block_offsets,
    block_sizes,
    matrix_places,
)
from moeflux.checkpoint.json_file import read_object
from moeflux.checkpoint.quantization import Affine
from moeflux.checkpoint.tensor_table import DTYPES
from moeflux.errors import CheckpointError
from moeflux.ops.operands import ExpertMatrixPlace, ExpertPlaces
from moeflux.quant import MatrixFormat

MANIFEST_NAME = "moeflux.json"
JOURNAL_NAME = "moeflux.unfinished.json"
DENSE_NAME = "dense.safetensors"
EXPERTS_FOLDER = "experts"
RECORD_ALIGNMENT = 16 * 1024
FORMAT = "moeflux packed checkpoint"
VERSION = 1

_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class ExpertFile:
    """The records of one layer's experts: layout, and the checksum of each."""

    layer: int
    record_nbytes: int
    places: ExpertPlaces
    checksums: tuple[int, ...]

    @property
    def name(self) -> str:
        return expert_file_name(self.layer)

    @property
    def nbytes(self) -> int:
        return len(self.checksums) * self.record_nbytes

    @property
    def shape(self) -> ExpertShape:
        gate_proj = self.places.gate_proj
        return ExpertShape(len(self.checksums), gate_proj.rows, gate_proj.cols)


@dataclass(frozen=True)
class DenseFile:
    """dense.safetensors: size, and checksums of the header with its length and of each tensor."""

    nbytes: int
    header_checksum: int
    checksums: Mapping[str, int]


@dataclass(frozen=True)
class PlainFile:
    """A configuration or tokenizer file."""

    nbytes: int
    checksum: int


@dataclass(frozen=True)
class Manifest:
    """source: digest of what was converted. target: how matrices were requantised; None: as is."""

    source: str
    target: Affine | None
    dense: DenseFile | None = None
    experts: Mapping[int, ExpertFile] = field(default_factory=dict)
    files: Mapping[str, PlainFile] = field(default_factory=dict)


def expert_file_name(layer: int) -> str:
    """Where in the folder a layer's records lie."""
    return f"{EXPERTS_FOLDER}/layer_{layer:02}.bin"


def read_manifest(path: Path) -> Manifest:
    """The manifest or journal at `path`. Raises CheckpointError, naming the key, if damaged."""
    reader = ConfigReader(read_object(path), path)
    if reader.text("format") != FORMAT:
        raise reader.error("format", repr(FORMAT))
    if reader.integer("version") != VERSION:
        raise reader.error("version", f"{VERSION}, the only version this program reads")
    target = reader.child("target") if reader.has("target") else None
    experts, files = reader.child("experts"), reader.child("files")
    return Manifest(
        source=reader.text("source"),
        target=Affine(target.integer("bits"), target.integer("group_size")) if target else None,
        dense=_read_dense(reader.child("dense")) if reader.has("dense") else None,
        experts={
            file.layer: file
            for file in (_read_experts(experts.child(key), key) for key in experts.values)
        },
        files={key: _read_plain(files.child(key), key) for key in files.values},
    )


def manifest_text(manifest: Manifest) -> bytes:
    """The manifest as JSON; the same manifest gives the same bytes."""
    target, dense = manifest.target, manifest.dense
    values = {
        "format": FORMAT,
        "version": VERSION,
        "source": manifest.source,
        "target": target and {"bits": target.bits, "group_size": target.group_size},
        "files": {
            name: {"nbytes": file.nbytes, "crc32c": file.checksum}
            for name, file in sorted(manifest.files.items())
        },
        "dense": dense
        and {
            "nbytes": dense.nbytes,
            "header_crc32c": dense.header_checksum,
            "crc32c": dict(sorted(dense.checksums.items())),
        },
        "experts": {
            str(layer): _expert_values(file) for layer, file in sorted(manifest.experts.items())
        },
    }
    return json.dumps(values, indent=1).encode() + b"\n"


def _expert_values(file: ExpertFile) -> dict[str, object]:
    matrices = zip(_PROJECTIONS, matrix_places(file.places), strict=True)
    return {
        "record_nbytes": file.record_nbytes,
        **{name: _place_values(place) for name, place in matrices},
        "crc32c": list(file.checksums),
    }


def _place_values(place: ExpertMatrixPlace) -> dict[str, object]:
    return {
        "rows": place.rows,
        "cols": place.cols,
        "dtype": _DTYPE_NAMES[place.format.dtype],
        "bits": place.format.bits,
        "group_size": place.format.group_size,
        "offsets": list(block_offsets(place)),
    }


def _read_plain(reader: ConfigReader, name: str) -> PlainFile:
    parts = name.split("/")
    if not name.isprintable() or "\\" in name or ":" in name or {"", ".", ".."} & {*parts}:
        raise CheckpointError(f"{reader.path}: files: wanted a file in the folder, got {name!r}")
    return PlainFile(reader.integer("nbytes", minimum=0), reader.integer("crc32c", minimum=0))


def _read_dense(reader: ConfigReader) -> DenseFile:
    checksums = reader.child("crc32c")
    return DenseFile(
        nbytes=reader.integer("nbytes"),
        header_checksum=reader.integer("header_crc32c", minimum=0),
        checksums={name: checksums.integer(name, minimum=0) for name in checksums.values},
    )


def _read_experts(reader: ConfigReader, key: str) -> ExpertFile:
    if not re.fullmatch(r"0|[1-9][0-9]{0,4}", key):
        raise CheckpointError(f"{reader.path}: experts: wanted a layer's number, got {key!r}")
    record_nbytes = reader.integer("record_nbytes")
    if record_nbytes % RECORD_ALIGNMENT:
        raise reader.error("record_nbytes", f"a multiple of {RECORD_ALIGNMENT}")
    checksums = reader.integers("crc32c")
    if not checksums:
        raise reader.error("crc32c", "a checksum for each expert")
    places = ExpertPlaces(*(_read_place(reader.child(name)) for name in _PROJECTIONS))
    _check_places(reader, places, record_nbytes)
    return ExpertFile(int(key), record_nbytes, places, checksums)


def _read_place(reader: ConfigReader) -> ExpertMatrixPlace:
    dtype = reader.text("dtype")
    if dtype not in DTYPES:
        raise reader.error("dtype", f"one of {', '.join(DTYPES)}")
    bits = reader.integer("bits", minimum=0)
    try:
        matrix_format = MatrixFormat(DTYPES[dtype], bits, reader.integer("group_size", minimum=0))
    except CheckpointError as error:
        raise CheckpointError(f"{reader.path}: {reader.section}: {error}") from error
    rows, cols = reader.integer("rows"), reader.integer("cols")
    if matrix_format.quantised and cols % matrix_format.group_size:
        raise reader.error("cols", f"whole groups of {matrix_format.group_size}")
    offsets = reader.integers("offsets")
    if len(offsets) != len(block_sizes(rows, cols, matrix_format)):
        raise reader.error("offsets", "of weight, scales and biases, or of weight alone")
    return ExpertMatrixPlace(rows, cols, matrix_format, *offsets)


def _check_places(reader: ConfigReader, places: ExpertPlaces, record_nbytes: int) -> None:
    gate_proj, up_proj, down_proj = matrix_places(places)
    wanted = (gate_proj.rows, gate_proj.cols)
    if (up_proj.rows, up_proj.cols) != wanted or (down_proj.cols, down_proj.rows) != wanted:
        raise CheckpointError(
            f"{reader.path}: {reader.section}: up_proj and down_proj do not fit gate_proj "
            f"{list(wanted)}"
        )
    blocks = sorted(
        (offset, nbytes)
        for place in (gate_proj, up_proj, down_proj)
        for offset, nbytes in zip(
            block_offsets(place), block_sizes(place.rows, place.cols, place.format), strict=True
        )
    )
    end = 0
    for offset, nbytes in blocks:
        if offset < end or offset % BLOCK_ALIGNMENT:
            raise CheckpointError(
                f"{reader.path}: {reader.section}: a block at {offset} overlaps or is not aligned"
            )
        end = offset + nbytes
    if end > record_nbytes:
        raise CheckpointError(
            f"{reader.path}: {reader.section}: blocks end at {end} of {record_nbytes} bytes"
        )
