"""Where the routed experts of a layer lie on disk, and how an expert's record is laid out.

A record is what a slot holds: gate_proj, up_proj and down_proj one after the other, each as weight,
scales and biases (weight alone if it is not quantised), every block at a multiple of 16 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moeflux.checkpoint.safetensors import TensorEntry
from moeflux.checkpoint.tensor_table import TensorTable, check_shape, element_dtype, wrong
from moeflux.errors import CheckpointError
from moeflux.ops.operands import ExpertMatrixPlace, ExpertPlaces
from moeflux.quant import MatrixFormat

BLOCK_ALIGNMENT = 16
"""Of the blocks in a record: the widest element that a kernel may load, four floats."""


@dataclass(frozen=True)
class ExpertShape:
    """Experts of a layer: gate_proj and up_proj [width, hidden], down_proj [hidden, width]."""

    n_experts: int
    width: int
    hidden: int


@dataclass(frozen=True)
class ExpertRange:
    """`nbytes` bytes at `offset` of a file that belong at `record_offset` of the record."""

    path: Path
    offset: int
    nbytes: int
    record_offset: int


@dataclass(frozen=True)
class Block:
    """A part of every record: its size, and the file and offset of it for each expert."""

    nbytes: int
    paths: Sequence[Path]
    offsets: Sequence[int]


@dataclass(frozen=True)
class Projection:
    """One matrix of every expert: shape, format, and blocks in the order of the record."""

    rows: int
    cols: int
    format: MatrixFormat
    blocks: tuple[Block, ...]


class LayerExperts:
    """The routed experts of one layer: the layout of a record, and what to read for each."""

    def __init__(
        self,
        places: ExpertPlaces,
        record_nbytes: int,
        blocks: Sequence[tuple[int, Block]],
        checksums: Sequence[int] = (),
    ) -> None:
        """`blocks` with their offsets in the record; `checksums` of whole records, or none."""
        self.n_experts = len(blocks[0][1].offsets)
        self.places = places
        self.record_nbytes = record_nbytes
        self._blocks = tuple(blocks)
        self._checksums = tuple(checksums)

    @classmethod
    def of(cls, projections: Sequence[Projection]) -> LayerExperts:
        """Experts whose gate_proj, up_proj and down_proj lie in blocks of their own."""
        places, record_nbytes = lay_out_record(
            [(projection.rows, projection.cols, projection.format) for projection in projections]
        )
        offsets = [offset for place in matrix_places(places) for offset in block_offsets(place)]
        blocks = [block for projection in projections for block in projection.blocks]
        return cls(places, record_nbytes, list(zip(offsets, blocks, strict=True)))

    @classmethod
    def find(cls, table: TensorTable, layer: str, shape: ExpertShape) -> LayerExperts:
        """The experts of the layer whose tensors lie under `layer`, in one of three layouts.

        - mlp.switch_mlp.{gate,up,down}_proj.{weight,scales,biases} [E, ...]
        - mlp.experts.gate_up_proj [E, 2 * width, hidden], gate_proj first, mlp.experts.down_proj
        - mlp.experts.N.{gate,up,down}_proj.{weight,scales,biases}

        Raises CheckpointError if there is none, a tensor is missing, or has another dtype or shape.
        """
        mlp = f"{layer}.mlp"
        for sign, find_projections in (
            (f"{mlp}.switch_mlp.gate_proj.weight", _stacked),
            (f"{mlp}.experts.gate_up_proj", _stacked_gate_up),
            (f"{mlp}.experts.0.gate_proj.weight", _per_expert),
        ):
            if table.has(sign):
                return cls.of(find_projections(table, mlp, shape))
        raise CheckpointError(
            f"{table.folder}: no routed experts in {layer!r}: wanted tensor "
            f"'{mlp}.switch_mlp.gate_proj.weight', '{mlp}.experts.gate_up_proj' or "
            f"'{mlp}.experts.0.gate_proj.weight'"
        )

    def checksum(self, expert: int) -> int | None:
        """CRC32C of the whole record where the checkpoint has one.

        Raises ValueError for an expert out of range.
        """
        self._check(expert)
        return self._checksums[expert] if self._checksums else None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that hold these experts."""
        return tuple(sorted({path for _, block in self._blocks for path in block.paths}))

    def ranges(self, expert: int) -> tuple[ExpertRange, ...]:
        """What to read from where to fill the record; what meets in file and record is one range.

        Raises ValueError for an expert out of range.
        """
        self._check(expert)
        ranges: list[ExpertRange] = []
        for record_offset, block in self._blocks:
            new = ExpertRange(
                block.paths[expert], block.offsets[expert], block.nbytes, record_offset
            )
            if ranges and _meet(ranges[-1], new):
                last = ranges.pop()
                new = ExpertRange(
                    last.path, last.offset, last.nbytes + new.nbytes, last.record_offset
                )
            ranges.append(new)
        return tuple(ranges)

    def _check(self, expert: int) -> None:
        if not 0 <= expert < self.n_experts:
            raise ValueError(f"expert {expert} is not one of {self.n_experts}")


def lay_out_record(
    matrices: Sequence[tuple[int, int, MatrixFormat]],
) -> tuple[ExpertPlaces, int]:
    """Places of gate_proj, up_proj and down_proj (rows, cols, format) in a record, and its size."""
    places: list[ExpertMatrixPlace] = []
    end = 0
    for rows, cols, matrix_format in matrices:
        offsets = []
        for nbytes in block_sizes(rows, cols, matrix_format):
            offsets.append(end)
            end += -(-nbytes // BLOCK_ALIGNMENT) * BLOCK_ALIGNMENT
        places.append(ExpertMatrixPlace(rows, cols, matrix_format, *offsets))
    return ExpertPlaces(*places), end


def matrix_places(places: ExpertPlaces) -> tuple[ExpertMatrixPlace, ...]:
    """The places of gate_proj, up_proj and down_proj."""
    return places.gate_proj, places.up_proj, places.down_proj


def block_sizes(rows: int, cols: int, matrix_format: MatrixFormat) -> tuple[int, ...]:
    """Bytes of weight, scales and biases, or of weight alone."""
    weight = matrix_format.weight_nbytes(rows, cols)
    scales = matrix_format.scales_nbytes(rows, cols)
    return (weight, scales, scales) if matrix_format.quantised else (weight,)


def block_offsets(place: ExpertMatrixPlace) -> tuple[int, ...]:
    """Offsets in the record of weight, scales and biases, or of weight alone."""
    if place.format.quantised:
        return place.weight, place.scales, place.biases
    return (place.weight,)


def _meet(first: ExpertRange, second: ExpertRange) -> bool:
    return (
        first.offset + first.nbytes == second.offset
        and first.record_offset + first.nbytes == second.record_offset
        and first.path == second.path
    )


def projection_shapes(shape: ExpertShape) -> dict[str, tuple[int, int]]:
    """Rows and cols of each projection, in the order of the record."""
    gate_up = (shape.width, shape.hidden)
    return {"gate_proj": gate_up, "up_proj": gate_up, "down_proj": (shape.hidden, shape.width)}


def _stacked(table: TensorTable, mlp: str, shape: ExpertShape) -> list[Projection]:
    projections = []
    for projection, (rows, cols) in projection_shapes(shape).items():
        name = f"{mlp}.switch_mlp.{projection}"
        stored = table.matrix(name, (shape.n_experts, rows, cols))
        blocks = tuple(_slices(tensor) for tensor in stored.tensors)
        projections.append(Projection(rows, cols, stored.format, blocks))
    return projections


def _slices(tensor: TensorEntry, part: int = 0, n_parts: int = 1) -> Block:
    """Part `part` of `n_parts` equal ones of each expert's slice of a stacked tensor [E, ...]."""
    n_experts = tensor.shape[0]
    stride = tensor.nbytes // n_experts
    nbytes = stride // n_parts
    first = tensor.offset + part * nbytes
    return Block(
        nbytes, (tensor.path,) * n_experts, range(first, first + n_experts * stride, stride)
    )


def _stacked_gate_up(table: TensorTable, mlp: str, shape: ExpertShape) -> list[Projection]:
    gate_up = table.entry(f"{mlp}.experts.gate_up_proj")
    down = table.entry(f"{mlp}.experts.down_proj")
    check_shape(gate_up, (shape.n_experts, 2 * shape.width, shape.hidden))
    check_shape(down, (shape.n_experts, shape.hidden, shape.width))
    gate_up_format = MatrixFormat(element_dtype(gate_up))
    return [
        Projection(shape.width, shape.hidden, gate_up_format, (_slices(gate_up, 0, 2),)),
        Projection(shape.width, shape.hidden, gate_up_format, (_slices(gate_up, 1, 2),)),
        Projection(shape.hidden, shape.width, MatrixFormat(element_dtype(down)), (_slices(down),)),
    ]


def _per_expert(table: TensorTable, mlp: str, shape: ExpertShape) -> list[Projection]:
    projections = []
    for projection, (rows, cols) in projection_shapes(shape).items():
        matrices = [
            table.matrix(f"{mlp}.experts.{expert}.{projection}", (rows, cols))
            for expert in range(shape.n_experts)
        ]
        for matrix in matrices:
            if matrix.format != matrices[0].format:
                raise wrong(
                    matrix.tensors[0], f"{matrices[0].format} like expert 0", str(matrix.format)
                )
        # zip turns weight, scales and biases of each expert into the experts' weights, scales, ...
        parts = zip(*(matrix.tensors for matrix in matrices), strict=True)
        blocks = tuple(_one_each(tensors) for tensors in parts)
        projections.append(Projection(rows, cols, matrices[0].format, blocks))
    return projections


def _one_each(tensors: Sequence[TensorEntry]) -> Block:
    return Block(
        tensors[0].nbytes,
        tuple(tensor.path for tensor in tensors),
        tuple(tensor.offset for tensor in tensors),
    )
