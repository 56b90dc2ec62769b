"""Dense weights as one safetensors file, tensors at multiples of 64 bytes, as mlx_lm names them.

Raw weights change their names (model.language_model.X becomes language_model.model.X), the
convolution its shape ([C, 1, K] becomes [C, K, 1]), and zero-centred norms hold 1 + w, which is
computed and stored in float32: what loading the raw weights computes, bit for bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moeflux._core import crc32c
from moeflux.checkpoint.checkpoint import Checkpoint
from moeflux.checkpoint.convert_experts import CHUNK_ELEMENTS
from moeflux.checkpoint.convert_files import PartialFile, SourceFiles
from moeflux.checkpoint.packed_manifest import DenseFile
from moeflux.checkpoint.quantization import Affine
from moeflux.checkpoint.requantise import decode_elements, encode_elements, requantise
from moeflux.checkpoint.safetensors import DTYPE_BITS, TensorEntry
from moeflux.checkpoint.tensor_table import DTYPES, StoredMatrix, element_dtype
from moeflux.errors import CheckpointError
from moeflux.quant import Dtype, MatrixFormat

TENSOR_ALIGNMENT = 64
ROUTER_AFFINE = Affine(8, 64)
"""What unquantised routers and shared-expert gates become: their rounding changes the routing."""

_ROUTERS = (".mlp.gate", ".mlp.shared_expert_gate")
_RAW_NORMS_ARE_SHIFTED = {"qwen3_5_moe": True, "qwen3_next": True, "qwen3_moe": False}
_SHIFTED_NORMS = ("_layernorm.weight", ".q_norm.weight", ".k_norm.weight")
_COPY_NBYTES = 8 << 20
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PARTS = ("weight", "scales", "biases")

Chunks = Callable[[SourceFiles], Iterator[Sequence[memoryview]]]


@dataclass(frozen=True)
class DenseTensor:
    """A tensor of the packed file."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BITS[self.dtype] // 8


@dataclass(frozen=True)
class DensePiece:
    """Tensors that are computed together: `chunks` gives the next bytes of each, until all are."""

    tensors: tuple[DenseTensor, ...]
    chunks: Chunks


@dataclass(frozen=True)
class DensePlan:
    """The packed file: pieces, what is quantised how, size, offset of each tensor, header.

    padding: size of each tensor that is there for alignment only.
    """

    pieces: tuple[DensePiece, ...]
    quantised: Mapping[str, Affine]
    nbytes: int
    offsets: Mapping[str, int]
    padding: Mapping[str, int]
    header: bytes


def plan_dense(checkpoint: Checkpoint, target: Affine | None) -> DensePlan:
    """The plan for a checkpoint's dense weights; with `target` its matrices become such codes.

    Raises CheckpointError for raw weights of an architecture whose conventions are unknown, and
    for damaged matrices.
    """
    planner = _Planner(checkpoint, target)
    entries = checkpoint.dense_tensors()
    pieces = [piece for entry in entries if (piece := planner.piece(entry)) is not None]
    return _lay_out(pieces, planner.quantised)


def write_dense(
    plan: DensePlan, files: SourceFiles, destination: Path, advance: Callable[[int], None]
) -> DenseFile:
    """Write the file; `advance` is told of the bytes written since it was told last.

    Raises as write_records.
    """
    checksums: dict[str, int] = {}
    with PartialFile(destination) as output:
        output.write(0, plan.header)
        advance(len(plan.header))
        for piece in plan.pieces:
            names = [tensor.name for tensor in piece.tensors]
            ends = [plan.offsets[name] for name in names]
            checksums |= dict.fromkeys(names, 0)
            for chunk in piece.chunks(files):
                for index, data in enumerate(chunk):
                    output.write(ends[index], data)
                    checksums[names[index]] = crc32c(data, checksums[names[index]])
                    ends[index] += data.nbytes
                    advance(data.nbytes)
        for name, nbytes in plan.padding.items():
            output.write(plan.offsets[name], bytes(nbytes))
            checksums[name] = crc32c(bytes(nbytes))
            advance(nbytes)
        output.commit()
    return DenseFile(plan.nbytes, crc32c(plan.header), checksums)


class _Planner:
    """Decides what becomes of each tensor of one checkpoint."""

    def __init__(self, checkpoint: Checkpoint, target: Affine | None) -> None:
        self.quantised: dict[str, Affine] = {}
        self._checkpoint = checkpoint
        self._target = target
        self._raw = checkpoint.style == "hf"
        self._shift = self._raw and _raw_norms_are_shifted(checkpoint)

    def piece(self, entry: TensorEntry) -> DensePiece | None:
        """What the tensor becomes; None for scales and biases, which go with their weight."""
        base, _, part = entry.name.rpartition(".")
        has_scales = self._checkpoint.has(f"{base}.scales")
        if has_scales and part in _PARTS[1:]:
            self._checkpoint.entry(f"{base}.weight")
            return None
        name = packed_name(entry.name, self._checkpoint)
        if part == "weight" and (has_scales or len(entry.shape) == 2):
            return self._matrix(packed_name(base, self._checkpoint), base, entry, has_scales)
        if self._shift and (
            name.endswith(_SHIFTED_NORMS) or entry.name == f"{self._checkpoint.trunk}.norm.weight"
        ):
            return DensePiece((DenseTensor(name, "F32", entry.shape),), _shifted(entry))
        shape = entry.shape
        if self._raw and name.endswith(".conv1d.weight") and len(shape) == 3:
            shape = (shape[0], shape[2], shape[1])
        return DensePiece((DenseTensor(name, entry.dtype, shape),), _copied([entry]))

    def _matrix(self, name: str, base: str, weight: TensorEntry, has_scales: bool) -> DensePiece:
        rows, cols = weight.shape
        if has_scales:
            affine = self._checkpoint.config.quantization.of(base)
            cols = cols * 32 // affine.bits if affine else cols
        stored = self._checkpoint.table.matrix(base, (rows, cols))
        target = self._format_of(name, stored, cols)
        if target.quantised:
            self.quantised[name] = Affine(target.bits, target.group_size)
        if target == stored.format:
            tensors = tuple(
                DenseTensor(f"{name}.{part}", entry.dtype, entry.shape)
                for part, entry in zip(_PARTS, stored.tensors, strict=False)
            )
            return DensePiece(tensors, _copied(stored.tensors))
        groups = (rows, cols // target.group_size)
        dtype = _DTYPE_NAMES[target.dtype]
        tensors = (
            DenseTensor(f"{name}.weight", "U32", (rows, cols * target.bits // 32)),
            DenseTensor(f"{name}.scales", dtype, groups),
            DenseTensor(f"{name}.biases", dtype, groups),
        )
        return DensePiece(tensors, _requantised(stored, target, cols))

    def _format_of(self, name: str, stored: StoredMatrix, cols: int) -> MatrixFormat:
        """As stored without a target, for rows that are not whole groups, and quantised routers."""
        target, is_router = self._target, name.endswith(_ROUTERS)
        if target is None or (is_router and stored.format.quantised):
            return stored.format
        affine = ROUTER_AFFINE if is_router else target
        if cols % affine.group_size:
            return stored.format
        return MatrixFormat(stored.format.dtype, affine.bits, affine.group_size)


def packed_name(name: str, checkpoint: Checkpoint) -> str:
    """The name of a tensor or matrix in the conventions of mlx_lm."""
    trunk = checkpoint.trunk
    if trunk != "model.language_model":
        return name
    if name.startswith(f"{trunk}."):
        return "language_model.model" + name[len(trunk) :]
    return f"language_model.{name}"


def _raw_norms_are_shifted(checkpoint: Checkpoint) -> bool:
    if checkpoint.model_type not in _RAW_NORMS_ARE_SHIFTED:
        raise CheckpointError(
            f"{checkpoint.path}: raw weights of model_type {checkpoint.model_type!r}: it is "
            "unknown whether their norms hold w or 1 + w; known: "
            + ", ".join(_RAW_NORMS_ARE_SHIFTED)
        )
    return _RAW_NORMS_ARE_SHIFTED[checkpoint.model_type]


def _copied(entries: Sequence[TensorEntry]) -> Chunks:
    def chunks(files: SourceFiles) -> Iterator[Sequence[memoryview]]:
        largest = max(entry.nbytes for entry in entries)
        buffer = memoryview(bytearray(min(_COPY_NBYTES, largest)))
        for index, entry in enumerate(entries):
            before, behind = [buffer[:0]] * index, [buffer[:0]] * (len(entries) - index - 1)
            for first in range(0, entry.nbytes, _COPY_NBYTES):
                data = buffer[: min(_COPY_NBYTES, entry.nbytes - first)]
                files.read_into(entry.path, entry.offset + first, data)
                yield [*before, data, *behind]

    return chunks


def _shifted(entry: TensorEntry) -> Chunks:
    dtype = element_dtype(entry)

    def chunks(files: SourceFiles) -> Iterator[Sequence[memoryview]]:
        data = memoryview(bytearray(entry.nbytes))
        files.read_into(entry.path, entry.offset, data)
        yield [encode_elements(np.float32(1) + decode_elements(data, dtype), Dtype.FLOAT32)]

    return chunks


def _requantised(stored: StoredMatrix, target: MatrixFormat, cols: int) -> Chunks:
    def chunks(files: SourceFiles) -> Iterator[Sequence[memoryview]]:
        rows = stored.tensors[0].shape[0]
        n_rows = math.ceil(CHUNK_ELEMENTS / cols)
        for first in range(0, rows, n_rows):
            parts = []
            for entry in stored.tensors:
                row_nbytes = entry.nbytes // rows
                part = memoryview(bytearray(min(n_rows, rows - first) * row_nbytes))
                files.read_into(entry.path, entry.offset + first * row_nbytes, part)
                parts.append(part)
            try:
                yield requantise(parts, stored.format, target, cols)
            except CheckpointError as error:
                entry = stored.tensors[0]
                raise CheckpointError(f"{entry.path}: tensor {entry.name!r}: {error}") from error

    return chunks


def _lay_out(pieces: Sequence[DensePiece], quantised: Mapping[str, Affine]) -> DensePlan:
    """Whole multiples of the alignment first; the others are followed by padding tensors.

    The format allows no bytes between tensors.
    """
    pieces = sorted(pieces, key=lambda piece: piece.tensors[0].name)
    tensors = [tensor for piece in pieces for tensor in piece.tensors]
    tensors.sort(key=lambda tensor: tensor.nbytes % TENSOR_ALIGNMENT != 0)
    values: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    starts: dict[str, int] = {}
    padding: dict[str, int] = {}
    end = 0
    for tensor in tensors:
        rest = -end % TENSOR_ALIGNMENT
        if rest:
            name = f"padding.{end}"
            starts[name], padding[name] = end, rest
            values[name] = _header_entry("U8", (rest,), end)
        starts[tensor.name] = end + rest
        values[tensor.name] = _header_entry(tensor.dtype, tensor.shape, end + rest)
        end += rest + tensor.nbytes
    text = json.dumps(values, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % TENSOR_ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    offsets = {name: len(header) + start for name, start in starts.items()}
    return DensePlan(tuple(pieces), quantised, len(header) + end, offsets, padding, header)


def _header_entry(dtype: str, shape: tuple[int, ...], start: int) -> dict[str, object]:
    end = start + math.prod(shape) * DTYPE_BITS[dtype] // 8
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
