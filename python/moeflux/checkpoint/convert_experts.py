"""The records of one layer's experts in the packed layout. Knows no names and no tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from moeflux._core import crc32c
from moeflux.checkpoint.convert_files import PartialFile, SourceFiles, in_order
from moeflux.checkpoint.experts import (
    LayerExperts,
    block_offsets,
    block_sizes,
    lay_out_record,
    matrix_places,
)
from moeflux.checkpoint.packed_manifest import RECORD_ALIGNMENT, ExpertFile
from moeflux.checkpoint.quantization import Affine
from moeflux.checkpoint.requantise import requantise, split_rows
from moeflux.errors import CheckpointError
from moeflux.ops.operands import ExpertMatrixPlace, ExpertPlaces
from moeflux.quant import MatrixFormat

CHUNK_ELEMENTS = 1 << 20
"""Elements that are requantised at a time, which bounds the temporaries."""


@dataclass(frozen=True)
class RecordPlan:
    """How the records of a layer come about: byte for byte, or requantised where formats differ."""

    layer: int
    source: LayerExperts
    places: ExpertPlaces
    record_nbytes: int

    @property
    def nbytes(self) -> int:
        """Bytes of the layer's file."""
        return self.source.n_experts * self.record_nbytes


def plan_records(layer: int, source: LayerExperts, target: Affine | None) -> RecordPlan:
    """The plan for one layer; with `target` its matrices become codes of that kind.

    Raises CheckpointError if their rows are not whole groups.
    """
    matrices = []
    for place in matrix_places(source.places):
        matrix_format = place.format
        if target is not None:
            if place.cols % target.group_size:
                raise CheckpointError(
                    f"layer {layer}: expert matrices have rows of {place.cols} columns, which are "
                    f"not whole groups of {target.group_size}"
                )
            matrix_format = MatrixFormat(matrix_format.dtype, target.bits, target.group_size)
        matrices.append((place.rows, place.cols, matrix_format))
    places, nbytes = lay_out_record(matrices)
    return RecordPlan(layer, source, places, -(-nbytes // RECORD_ALIGNMENT) * RECORD_ALIGNMENT)


def write_records(
    plan: RecordPlan,
    files: SourceFiles,
    destination: Path,
    workers: ThreadPoolExecutor,
    advance: Callable[[int], None],
) -> ExpertFile:
    """Write the layer's file; `advance` is told of the bytes written since it was told last.

    Raises ReadError for the source, ConversionError for the destination, and CheckpointError for
    weights that cannot be quantised.
    """

    def record(expert: int) -> tuple[memoryview, int]:
        data = _record(plan, files, expert)
        return data, crc32c(data)

    checksums: list[int] = []
    with PartialFile(destination) as output:
        for data, checksum in in_order(workers, record, range(plan.source.n_experts)):
            output.write(len(checksums) * plan.record_nbytes, data)
            checksums.append(checksum)
            advance(plan.record_nbytes)
        output.commit()
    return ExpertFile(plan.layer, plan.record_nbytes, plan.places, tuple(checksums))


def _record(plan: RecordPlan, files: SourceFiles, expert: int) -> memoryview:
    """One record of the packed layout, padded with zeros."""
    stored = memoryview(bytearray(max(plan.source.record_nbytes, plan.record_nbytes)))
    for part in plan.source.ranges(expert):
        destination = stored[part.record_offset : part.record_offset + part.nbytes]
        files.read_into(part.path, part.offset, destination)
    if plan.places == plan.source.places:
        return stored[: plan.record_nbytes]
    record = memoryview(bytearray(plan.record_nbytes))
    places = zip(matrix_places(plan.source.places), matrix_places(plan.places), strict=True)
    try:
        for old, new in places:
            _convert_matrix(_blocks(stored, old), old, _blocks(record, new), new.format)
    except CheckpointError as error:
        raise CheckpointError(f"layer {plan.layer} expert {expert}: {error}") from error
    return record


def _blocks(record: memoryview, place: ExpertMatrixPlace) -> list[memoryview]:
    sizes = block_sizes(place.rows, place.cols, place.format)
    return [
        record[offset : offset + nbytes]
        for offset, nbytes in zip(block_offsets(place), sizes, strict=True)
    ]


def _convert_matrix(
    source: Sequence[memoryview],
    place: ExpertMatrixPlace,
    destination: Sequence[memoryview],
    target: MatrixFormat,
) -> None:
    if place.format == target:
        for block, copy in zip(destination, source, strict=True):
            block[:] = copy
        return
    n_rows = math.ceil(CHUNK_ELEMENTS / place.cols)
    offsets = [0] * len(destination)
    for parts in split_rows(source, place.format, place.cols, n_rows):
        for index, part in enumerate(requantise(parts, place.format, target, place.cols)):
            destination[index][offsets[index] : offsets[index] + part.nbytes] = part
            offsets[index] += part.nbytes
