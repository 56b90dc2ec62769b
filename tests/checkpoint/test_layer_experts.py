"""LayerExperts: reading an expert's ranges gives exactly its matrices, in every layout on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moeflux.checkpoint import Checkpoint, ExpertShape, LayerExperts
from moeflux.errors import CheckpointError
from moeflux.ops.operands import ExpertMatrixPlace
from moeflux.quant import Dtype
from stored_tensors import Float32, Stored, decode, dequantise, encode, write_safetensors
from tiny_checkpoint import HfLayout, MlxLayout, TinyModel, write_folder, write_hf, write_mlx

MODEL = TinyModel("qwen3_5_moe", n_layers=1)
SHAPE = ExpertShape(MODEL.n_experts, MODEL.expert_width, MODEL.hidden)
DTYPE_NAMES = {Dtype.FLOAT32: "F32", Dtype.FLOAT16: "F16", Dtype.BFLOAT16: "BF16"}
ELEMENTS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def read_record(experts: LayerExperts, expert: int) -> bytes:
    record = bytearray(b"\xaa" * experts.record_nbytes)
    for part in experts.ranges(expert):
        with part.path.open("rb") as file:
            file.seek(part.offset)
            record[part.record_offset : part.record_offset + part.nbytes] = file.read(part.nbytes)
    return bytes(record)


def matrix_in(record: bytes, place: ExpertMatrixPlace) -> Float32:
    """The float32 matrix that a place in a record holds."""
    dtype, rows, cols = DTYPE_NAMES[place.format.dtype], place.rows, place.cols

    def elements(offset: int, nbytes: int) -> Stored:
        data = np.frombuffer(record[offset : offset + nbytes], ELEMENTS[dtype])
        return dtype, data.reshape(rows, -1)

    if not place.format.quantised:
        return decode(elements(place.weight, place.format.weight_nbytes(rows, cols)))
    scales_nbytes = place.format.scales_nbytes(rows, cols)
    words = record[place.weight : place.weight + place.format.weight_nbytes(rows, cols)]
    parts = {
        "weight": ("U32", np.frombuffer(words, "<u4").reshape(rows, -1)),
        "scales": elements(place.scales, scales_nbytes),
        "biases": elements(place.biases, scales_nbytes),
    }
    return dequantise(parts, place.format.bits, place.format.group_size)


def check_every_expert(experts: LayerExperts, weights: dict[str, Float32]) -> None:
    for expert in range(MODEL.n_experts):
        record = read_record(experts, expert)
        for projection in ("gate_proj", "up_proj", "down_proj"):
            matrix = matrix_in(record, getattr(experts.places, projection))
            wanted = weights[f"layers.0.mlp.experts.{projection}"][expert]
            np.testing.assert_array_equal(matrix, wanted)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize(("group_size", "dtype"), [(32, "F16"), (64, "BF16"), (64, "F32")])
def test_quantised_stacks(tmp_path: Path, bits: int, group_size: int, dtype: str) -> None:
    layout = MlxLayout(bits, group_size, dtype=dtype, n_shards=3, aligned=False)
    written = write_mlx(MODEL, tmp_path, layout)
    experts = Checkpoint.open(tmp_path).experts(0, SHAPE)
    check_every_expert(experts, written.weights)
    assert len(experts.ranges(0)) == 9


def test_groups_of_128(tmp_path: Path) -> None:
    model = TinyModel("qwen3_next", n_layers=1, n_experts=2, expert_width=128, shared_width=128)
    written = write_mlx(model, tmp_path, MlxLayout(4, 128))
    experts = Checkpoint.open(tmp_path).experts(0, ExpertShape(2, 128, 128))
    matrix = matrix_in(read_record(experts, 1), experts.places.down_proj)
    np.testing.assert_array_equal(matrix, written.weights["layers.0.mlp.experts.down_proj"][1])


def test_projections_may_be_quantised_differently(tmp_path: Path) -> None:
    overrides = {"experts.down_proj": (8, 32), "experts.up_proj": None}
    written = write_mlx(MODEL, tmp_path, MlxLayout(overrides=overrides))
    experts = Checkpoint.open(tmp_path).experts(0, SHAPE)
    check_every_expert(experts, written.weights)
    assert experts.places.down_proj.format.bits == 8
    assert not experts.places.up_proj.format.quantised


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_unquantised_stacks_of_mlx(tmp_path: Path, dtype: str) -> None:
    written = write_mlx(MODEL, tmp_path, MlxLayout(bits=None, dtype=dtype))
    experts = Checkpoint.open(tmp_path).experts(0, SHAPE)
    check_every_expert(experts, written.weights)
    assert len(experts.ranges(0)) == 3


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_stacks_of_gate_and_up_together(tmp_path: Path, dtype: str) -> None:
    written = write_hf(MODEL, tmp_path, HfLayout(dtype=dtype, stacked_experts=True))
    experts = Checkpoint.open(tmp_path).experts(0, SHAPE)
    check_every_expert(experts, written.weights)


def test_gate_and_up_of_one_stack_are_one_range(tmp_path: Path) -> None:
    write_hf(MODEL, tmp_path, HfLayout(stacked_experts=True))
    ranges = Checkpoint.open(tmp_path).experts(0, SHAPE).ranges(3)
    matrix_nbytes = 2 * MODEL.expert_width * MODEL.hidden
    assert [part.nbytes for part in ranges] == [2 * matrix_nbytes, matrix_nbytes]
    assert [part.record_offset for part in ranges] == [0, 2 * matrix_nbytes]


@pytest.mark.parametrize("n_shards", [1, 5])
def test_tensors_per_expert(tmp_path: Path, n_shards: int) -> None:
    layout = HfLayout(stacked_experts=False, n_shards=n_shards, aligned=False)
    written = write_hf(MODEL, tmp_path, layout)
    experts = Checkpoint.open(tmp_path).experts(0, SHAPE)
    check_every_expert(experts, written.weights)
    read = {part.path for expert in range(MODEL.n_experts) for part in experts.ranges(expert)}
    assert set(experts.paths) == read
    assert len(experts.ranges(0)) == 3


def write_one_expert(folder: Path, matrices: list[Stored], *, n_shards: int = 1) -> LayerExperts:
    """One layer of one expert with these gate_proj, up_proj and down_proj, one behind the other."""
    names = [
        f"model.layers.0.mlp.experts.0.{p}.weight" for p in ("gate_proj", "up_proj", "down_proj")
    ]
    tensors = {"model.embed_tokens.weight": encode(np.zeros((4, 4), "f4"), "F32")}
    tensors |= dict(zip(names, matrices, strict=True))
    write_folder(folder, {"model_type": "qwen3_moe"}, tensors, n_shards=n_shards, aligned=True)
    width, hidden = matrices[0][1].shape
    return Checkpoint.open(folder).experts(0, ExpertShape(1, width, hidden))


def random_matrices(width: int, hidden: int) -> list[Stored]:
    generator = np.random.default_rng(0)
    shapes = ((width, hidden), (width, hidden), (hidden, width))
    return [encode(generator.standard_normal(shape, dtype=np.float32), "F32") for shape in shapes]


def matrices_in(experts: LayerExperts) -> list[Float32]:
    record, places = read_record(experts, 0), experts.places
    return [matrix_in(record, p) for p in (places.gate_proj, places.up_proj, places.down_proj)]


def test_neighbours_in_file_and_record_are_one_range(tmp_path: Path) -> None:
    matrices = random_matrices(4, 8)
    experts = write_one_expert(tmp_path, matrices)
    assert [part.nbytes for part in experts.ranges(0)] == [3 * 4 * 8 * 4]
    for got, wanted in zip(matrices_in(experts), matrices, strict=True):
        np.testing.assert_array_equal(got, wanted[1])


def test_neighbours_in_the_file_alone_stay_apart(tmp_path: Path) -> None:
    matrices = random_matrices(1, 3)
    experts = write_one_expert(tmp_path, matrices)
    ranges = experts.ranges(0)
    assert [(part.nbytes, part.record_offset) for part in ranges] == [(12, 0), (12, 16), (12, 32)]
    assert experts.record_nbytes == 48
    for got, wanted in zip(matrices_in(experts), matrices, strict=True):
        np.testing.assert_array_equal(got, wanted[1])


def test_neighbours_in_two_files_stay_apart(tmp_path: Path) -> None:
    matrices = random_matrices(4, 4)
    write_one_expert(tmp_path, matrices, n_shards=2)
    first, second = (tmp_path / f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    # The second file's header is padded until its data starts where the first file ends.
    content, end = second.read_bytes(), first.stat().st_size
    header_nbytes = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + header_nbytes], content[8 + header_nbytes :]
    header += b" " * (end - 8 - header_nbytes)
    second.write_bytes(len(header).to_bytes(8, "little") + header + data)
    experts = Checkpoint.open(tmp_path).experts(0, ExpertShape(1, 4, 4))
    gate_proj, up_and_down = experts.ranges(0)
    assert gate_proj.offset + gate_proj.nbytes == up_and_down.offset == end
    for got, wanted in zip(matrices_in(experts), matrices, strict=True):
        np.testing.assert_array_equal(got, wanted[1])


def test_blocks_are_aligned_and_inside_the_record(tmp_path: Path) -> None:
    write_mlx(MODEL, tmp_path, MlxLayout(bits=3, group_size=32))
    experts = Checkpoint.open(tmp_path).experts(0, SHAPE)
    ranges = experts.ranges(0)
    assert all(part.record_offset % 16 == 0 for part in ranges)
    assert experts.record_nbytes % 16 == 0
    ends = [part.record_offset + part.nbytes for part in ranges]
    starts = [part.record_offset for part in ranges[1:]] + [experts.record_nbytes]
    assert all(end <= start for end, start in zip(ends, starts, strict=True))


@pytest.mark.parametrize("expert", [-1, MODEL.n_experts])
def test_expert_out_of_range_is_refused(tmp_path: Path, expert: int) -> None:
    write_hf(MODEL, tmp_path)
    experts = Checkpoint.open(tmp_path).experts(0, SHAPE)
    with pytest.raises(ValueError, match=f"expert {expert} is not one of {MODEL.n_experts}"):
        experts.ranges(expert)


@pytest.mark.parametrize(
    "shape",
    [
        ExpertShape(SHAPE.n_experts + 1, SHAPE.width, SHAPE.hidden),
        ExpertShape(SHAPE.n_experts, SHAPE.width // 2, SHAPE.hidden),
        ExpertShape(SHAPE.n_experts, SHAPE.width, SHAPE.hidden * 2),
    ],
    ids=["n_experts", "width", "hidden"],
)
@pytest.mark.parametrize("layout", ["switch_mlp", "stacked", "per expert"])
def test_shape_other_than_configured_is_refused(
    tmp_path: Path, layout: str, shape: ExpertShape
) -> None:
    if layout == "switch_mlp":
        write_mlx(MODEL, tmp_path)
    else:
        write_hf(MODEL, tmp_path, HfLayout(stacked_experts=layout == "stacked"))
    checkpoint = Checkpoint.open(tmp_path)
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.(switch_mlp|experts)\."):
        checkpoint.experts(0, shape)


def test_layer_without_experts_is_refused(tmp_path: Path) -> None:
    write_mlx(MODEL, tmp_path)
    with pytest.raises(CheckpointError, match=r"no routed experts in '.*layers\.7'.*switch_mlp"):
        Checkpoint.open(tmp_path).experts(7, SHAPE)


def test_experts_of_different_dtypes_are_refused(tmp_path: Path) -> None:
    write_hf(MODEL, tmp_path)
    tensors = {"model.embed_tokens.weight": encode(np.zeros((1, 1), "f4"), "F32")}
    for expert in range(2):
        for projection in ("gate_proj", "up_proj", "down_proj"):
            name = f"model.layers.0.mlp.experts.{expert}.{projection}.weight"
            tensors[name] = encode(np.zeros((32, 32), "f4"), "F32" if expert else "BF16")
    write_safetensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(CheckpointError, match=r"experts\.1\.gate_proj.*like expert 0"):
        Checkpoint.open(tmp_path).experts(0, ExpertShape(2, 32, 32))
