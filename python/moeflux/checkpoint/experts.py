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
class _Block:
    """One of the blocks of a record: its size, and the file and offset of it for each expert."""

    nbytes: int
    paths: Sequence[Path]
    offsets: Sequence[int]


@dataclass(frozen=True)
class _Projection:
    """One matrix of every expert: shape, format, and blocks in the order of the record."""

    rows: int
    cols: int
    format: MatrixFormat
    blocks: tuple[_Block, ...]


class LayerExperts:
    """The routed experts of one layer: the layout of a record, and what to read for each."""

    def __init__(self, n_experts: int, projections: Sequence[_Projection]) -> None:
        self._blocks: list[tuple[int, _Block]] = []
        places: list[ExpertMatrixPlace] = []
        end = 0
        for projection in projections:
            offsets = []
            for block in projection.blocks:
                offsets.append(end)
                self._blocks.append((end, block))
                end += -(-block.nbytes // BLOCK_ALIGNMENT) * BLOCK_ALIGNMENT
            places.append(
                ExpertMatrixPlace(projection.rows, projection.cols, projection.format, *offsets)
            )
        self.n_experts = n_experts
        self.places = ExpertPlaces(*places)
        self.record_nbytes = end

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
                return cls(shape.n_experts, find_projections(table, mlp, shape))
        raise CheckpointError(
            f"{table.folder}: no routed experts in {layer!r}: wanted tensor "
            f"'{mlp}.switch_mlp.gate_proj.weight', '{mlp}.experts.gate_up_proj' or "
            f"'{mlp}.experts.0.gate_proj.weight'"
        )

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that hold these experts."""
        return tuple(sorted({path for _, block in self._blocks for path in block.paths}))

    def ranges(self, expert: int) -> tuple[ExpertRange, ...]:
        """What to read from where to fill the record; what meets in file and record is one range.

        Raises ValueError for an expert out of range.
        """
        if not 0 <= expert < self.n_experts:
            raise ValueError(f"expert {expert} is not one of {self.n_experts}")
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


def _meet(first: ExpertRange, second: ExpertRange) -> bool:
    return (
        first.path == second.path
        and first.offset + first.nbytes == second.offset
        and first.record_offset + first.nbytes == second.record_offset
    )


def _projection_shapes(shape: ExpertShape) -> dict[str, tuple[int, int]]:
    gate_up = (shape.width, shape.hidden)
    return {"gate_proj": gate_up, "up_proj": gate_up, "down_proj": (shape.hidden, shape.width)}


def _stacked(table: TensorTable, mlp: str, shape: ExpertShape) -> list[_Projection]:
    projections = []
    for projection, (rows, cols) in _projection_shapes(shape).items():
        name = f"{mlp}.switch_mlp.{projection}"
        stored = table.matrix(name, (shape.n_experts, rows, cols))
        blocks = tuple(_slices(tensor) for tensor in stored.tensors)
        projections.append(_Projection(rows, cols, stored.format, blocks))
    return projections


def _slices(tensor: TensorEntry, part: int = 0, n_parts: int = 1) -> _Block:
    """Part `part` of `n_parts` equal ones of each expert's slice of a stacked tensor [E, ...]."""
    n_experts = tensor.shape[0]
    stride = tensor.nbytes // n_experts
    nbytes = stride // n_parts
    first = tensor.offset + part * nbytes
    return _Block(
        nbytes, (tensor.path,) * n_experts, range(first, first + n_experts * stride, stride)
    )


def _stacked_gate_up(table: TensorTable, mlp: str, shape: ExpertShape) -> list[_Projection]:
    gate_up = table.entry(f"{mlp}.experts.gate_up_proj")
    down = table.entry(f"{mlp}.experts.down_proj")
    check_shape(gate_up, (shape.n_experts, 2 * shape.width, shape.hidden))
    check_shape(down, (shape.n_experts, shape.hidden, shape.width))
    gate_up_format = MatrixFormat(element_dtype(gate_up))
    return [
        _Projection(shape.width, shape.hidden, gate_up_format, (_slices(gate_up, 0, 2),)),
        _Projection(shape.width, shape.hidden, gate_up_format, (_slices(gate_up, 1, 2),)),
        _Projection(shape.hidden, shape.width, MatrixFormat(element_dtype(down)), (_slices(down),)),
    ]


def _per_expert(table: TensorTable, mlp: str, shape: ExpertShape) -> list[_Projection]:
    projections = []
    for projection, (rows, cols) in _projection_shapes(shape).items():
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
        projections.append(_Projection(rows, cols, matrices[0].format, blocks))
    return projections


def _one_each(tensors: Sequence[TensorEntry]) -> _Block:
    return _Block(
        tensors[0].nbytes,
        tuple(tensor.path for tensor in tensors),
        tuple(tensor.offset for tensor in tensors),
    )
