"""DenseWeights: the right numbers on the device, in place where aligned, refused where wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from moeflux._core import Buffer, Device, device_names, open_device
from moeflux.checkpoint import Checkpoint, DenseWeights
from moeflux.errors import CheckpointError
from moeflux.ops.operands import Matrix, Vector
from moeflux.quant import Dtype
from stored_tensors import Float32, Stored, decode, dequantise, encode, quantise, write_safetensors
from tiny_checkpoint import HfLayout, MlxLayout, TinyModel, write_hf, write_mlx

DTYPE_NAMES = {Dtype.FLOAT32: "F32", Dtype.FLOAT16: "F16", Dtype.BFLOAT16: "BF16"}
ELEMENTS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@pytest.fixture(params=device_names())
def device(request: pytest.FixtureRequest) -> Device:
    return open_device(request.param)


def elements(device: Device, buffer: Buffer, dtype: Dtype) -> Stored:
    name = DTYPE_NAMES[dtype]
    return name, np.frombuffer(device.download(buffer), ELEMENTS[name])


def values_of(device: Device, operand: Matrix | Vector) -> Float32:
    """The float32 values of an operand, from the bytes on the device."""
    if isinstance(operand, Vector):
        return decode(elements(device, operand.buffer, operand.dtype))
    dtype, rows = operand.format.dtype, operand.rows
    if operand.scales is None or operand.biases is None:
        return decode(elements(device, operand.weight, dtype)).reshape(rows, operand.cols)
    words = np.frombuffer(device.download(operand.weight), "<u4").reshape(rows, -1)
    parts = {"weight": ("U32", words)}
    for name, buffer in (("scales", operand.scales), ("biases", operand.biases)):
        stored_dtype, data = elements(device, buffer, dtype)
        parts[name] = stored_dtype, data.reshape(rows, -1)
    return dequantise(parts, operand.format.bits, operand.format.group_size)


def open_with(folder: Path, tensors: Mapping[str, Stored], *, aligned: bool = True) -> Checkpoint:
    config = {"model_type": "qwen3_moe", "quantization": {"bits": 4, "group_size": 32}}
    write_safetensors(folder / "model.safetensors", tensors, aligned=aligned)
    (folder / "config.json").write_text(json.dumps(config))
    return Checkpoint.open(folder)


def normal(*shape: int) -> Float32:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def check_all_dense(device: Device, folder: Path, weights: dict[str, Float32]) -> DenseWeights:
    """Every dense weight of a checkpoint means what was written, and nothing is left out."""
    checkpoint = Checkpoint.open(folder)
    dense = DenseWeights(checkpoint, device)
    for name, wanted in weights.items():
        if ".mlp.experts." in name:
            continue
        full = checkpoint.lm_head if name == "lm_head" else f"{checkpoint.trunk}.{name}"
        operand: Matrix | Vector
        if name.endswith("conv1d"):
            operand = dense.convolution(f"{full}.weight", *wanted.shape)
        elif wanted.ndim == 2:
            operand = dense.matrix(full, *wanted.shape)
        else:
            shifted = name.endswith("norm") and not name.endswith("linear_attn.norm")
            plus_one = shifted and checkpoint.style == "hf" and checkpoint.model_type != "qwen3_moe"
            vector = full if dense.has(full) else f"{full}.weight"
            operand = dense.vector(vector, wanted.size, plus_one=plus_one)
        values = values_of(device, operand)
        np.testing.assert_array_equal(values, wanted.reshape(values.shape))
    return dense


@pytest.mark.parametrize("kind", ["qwen3_5_moe", "qwen3_next", "qwen3_moe"])
@pytest.mark.parametrize("aligned", [True, False])
def test_published_checkpoint(tmp_path: Path, device: Device, kind: str, aligned: bool) -> None:
    written = write_hf(TinyModel(kind), tmp_path, HfLayout(n_shards=2, aligned=aligned))
    check_all_dense(device, tmp_path, written.weights)


@pytest.mark.parametrize("kind", ["qwen3_5_moe", "qwen3_next", "qwen3_moe"])
@pytest.mark.parametrize("aligned", [True, False])
def test_converted_checkpoint(tmp_path: Path, device: Device, kind: str, aligned: bool) -> None:
    written = write_mlx(TinyModel(kind), tmp_path, MlxLayout(n_shards=2, aligned=aligned))
    check_all_dense(device, tmp_path, written.weights)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize(("group_size", "dtype"), [(32, "F16"), (64, "BF16"), (64, "F32")])
def test_quantised_matrices(
    tmp_path: Path, device: Device, bits: int, group_size: int, dtype: str
) -> None:
    model = TinyModel("qwen3_5_moe", n_layers=1)
    written = write_mlx(model, tmp_path, MlxLayout(bits, group_size, dtype=dtype))
    check_all_dense(device, tmp_path, written.weights)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_unquantised_matrix_keeps_its_dtype(tmp_path: Path, device: Device, dtype: str) -> None:
    stored = encode(normal(4, 8), dtype)
    matrix = DenseWeights(open_with(tmp_path, {"a.weight": stored}), device).matrix("a", 4, 8)
    assert DTYPE_NAMES[matrix.format.dtype] == dtype
    np.testing.assert_array_equal(values_of(device, matrix), decode(stored))


def test_router_is_read_with_its_own_bits(tmp_path: Path, device: Device) -> None:
    written = write_mlx(TinyModel("qwen3_moe"), tmp_path)
    checkpoint = Checkpoint.open(tmp_path)
    layer = DenseWeights(checkpoint, device).under(checkpoint.layer(0))
    router = layer.matrix("mlp.gate", 8, 128)
    assert (router.format.bits, layer.matrix("self_attn.k_proj", 64, 128).format.bits) == (8, 4)
    np.testing.assert_array_equal(values_of(device, router), written.weights["layers.0.mlp.gate"])


def test_override_false_is_not_quantised(tmp_path: Path, device: Device) -> None:
    written = write_mlx(TinyModel("qwen3_moe"), tmp_path, MlxLayout(overrides={"lm_head": None}))
    matrix = DenseWeights(Checkpoint.open(tmp_path), device).matrix("lm_head", 320, 128)
    assert not matrix.format.quantised
    np.testing.assert_array_equal(values_of(device, matrix), written.weights["lm_head"])


# ---- in place or copied ----


def test_aligned_tensors_are_used_in_place(tmp_path: Path, device: Device) -> None:
    written = write_mlx(TinyModel("qwen3_5_moe"), tmp_path, MlxLayout(n_shards=3, aligned=True))
    dense = check_all_dense(device, tmp_path, written.weights)
    assert dense.copied_nbytes == 0
    assert dense.mapped_nbytes == Checkpoint.open(tmp_path).dense_nbytes


def test_unaligned_tensors_are_copied(tmp_path: Path, device: Device) -> None:
    written = write_mlx(TinyModel("qwen3_5_moe"), tmp_path, MlxLayout(n_shards=3, aligned=False))
    dense = check_all_dense(device, tmp_path, written.weights)
    assert dense.mapped_nbytes == 0
    assert dense.copied_nbytes == Checkpoint.open(tmp_path).dense_nbytes


@pytest.mark.parametrize(
    ("n_bytes_before", "dtype", "in_place"),
    [(1, "BF16", False), (2, "BF16", True), (2, "F32", False), (4, "F32", True), (3, "F16", False)],
)
def test_alignment_is_that_of_the_element(
    tmp_path: Path, device: Device, n_bytes_before: int, dtype: str, in_place: bool
) -> None:
    stored = encode(normal(6), dtype)
    tensors = {"before": ("U8", np.zeros(n_bytes_before, np.uint8)), "w": stored}
    dense = DenseWeights(open_with(tmp_path, tensors), device)
    np.testing.assert_array_equal(values_of(device, dense.vector("w", 6)), decode(stored))
    nbytes = stored[1].nbytes
    assert (dense.mapped_nbytes, dense.copied_nbytes) == ((nbytes, 0) if in_place else (0, nbytes))


def test_same_tensor_is_fetched_once(tmp_path: Path, device: Device) -> None:
    checkpoint = open_with(tmp_path, {"a.weight": encode(normal(4, 8), "F32")}, aligned=False)
    dense = DenseWeights(checkpoint, device)
    first, second = dense.matrix("a", 4, 8), dense.matrix("a", 4, 8)
    assert first.weight is second.weight
    assert dense.copied_nbytes == 128


def test_weights_outlive_checkpoint_and_loader(tmp_path: Path, device: Device) -> None:
    stored = encode(normal(4, 8), "F32")
    matrix = DenseWeights(open_with(tmp_path, {"a.weight": stored}), device).matrix("a", 4, 8)
    np.testing.assert_array_equal(values_of(device, matrix), decode(stored))


# ---- vectors and arrays ----


def test_plus_one_is_added_in_float32(tmp_path: Path, device: Device) -> None:
    stored = encode(normal(64), "BF16")
    vector = DenseWeights(open_with(tmp_path, {"n": stored}), device).vector("n", 64, plus_one=True)
    assert vector.dtype is Dtype.FLOAT32
    np.testing.assert_array_equal(values_of(device, vector), np.float32(1) + decode(stored))


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_array_is_float32_on_the_host(
    tmp_path: Path, device: Device, dtype: str, aligned: bool
) -> None:
    stored = encode(normal(3, 5), dtype)
    dense = DenseWeights(open_with(tmp_path, {"a": stored}, aligned=aligned), device)
    array = dense.array("a", (3, 5))
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, decode(stored))


def test_scopes_nest_and_count_together(tmp_path: Path, device: Device) -> None:
    tensors = {"model.layers.0.a": encode(normal(4), "F32"), "b": encode(normal(4), "F32")}
    dense = DenseWeights(open_with(tmp_path, tensors), device)
    layer = dense.under("model").under("layers.0")
    layer.vector("a", 4)
    dense.vector("b", 4)
    assert (layer.has("a"), layer.has("b"), dense.has("b")) == (True, False, True)
    assert layer.mapped_nbytes == dense.mapped_nbytes == 32


# ---- refused ----


def quantised_tensors() -> dict[str, Stored]:
    return {f"a.{part}": stored for part, stored in quantise(normal(8, 64), 4, 32, "BF16").items()}


def matrix_refused(
    folder: Path, device: Device, tensors: Mapping[str, Stored], *fragments: str
) -> None:
    dense = DenseWeights(open_with(folder, tensors), device)
    with pytest.raises(CheckpointError) as refusal:
        dense.matrix("a", 8, 64)
    for fragment in ("model.safetensors", *fragments):
        assert fragment in str(refusal.value)


def test_missing_weight_is_refused(tmp_path: Path, device: Device) -> None:
    matrix_refused(tmp_path, device, {"b.weight": encode(normal(8, 64), "F32")}, "'a.weight'")


def test_missing_biases_are_refused(tmp_path: Path, device: Device) -> None:
    tensors = quantised_tensors()
    del tensors["a.biases"]
    matrix_refused(tmp_path, device, tensors, "'a.biases'")


def test_wrong_shape_says_wanted_and_got(tmp_path: Path, device: Device) -> None:
    tensors = {"a.weight": encode(normal(64, 8), "F32")}
    matrix_refused(tmp_path, device, tensors, "'a.weight'", "wanted shape [8, 64], got [64, 8]")


def test_other_bits_than_configured_are_refused(tmp_path: Path, device: Device) -> None:
    parts = quantise(normal(8, 64), 8, 32, "BF16")
    tensors = {f"a.{part}": stored for part, stored in parts.items()}
    matrix_refused(tmp_path, device, tensors, "'a.weight'", "wanted shape [8, 8], got [8, 16]")


def test_other_group_size_than_configured_is_refused(tmp_path: Path, device: Device) -> None:
    parts = quantise(normal(8, 64), 4, 64, "BF16")
    tensors = {f"a.{part}": stored for part, stored in parts.items()}
    matrix_refused(tmp_path, device, tensors, "'a.scales'", "wanted shape [8, 2], got [8, 1]")


def test_codes_without_scales_are_refused(tmp_path: Path, device: Device) -> None:
    tensors = {"a.weight": ("U32", np.zeros((8, 64), np.uint32))}
    matrix_refused(tmp_path, device, tensors, "'a.weight'", "wanted dtype F32", "got U32")


def test_codes_of_another_dtype_are_refused(tmp_path: Path, device: Device) -> None:
    tensors = quantised_tensors()
    tensors["a.weight"] = ("I32", tensors["a.weight"][1])
    matrix_refused(tmp_path, device, tensors, "'a.weight'", "wanted dtype U32", "got I32")


def test_scales_and_biases_of_two_dtypes_are_refused(tmp_path: Path, device: Device) -> None:
    tensors = quantised_tensors()
    tensors["a.biases"] = encode(normal(8, 2), "F32")
    matrix_refused(tmp_path, device, tensors, "'a.biases'", "wanted dtype BF16")


def test_scales_of_no_float_are_refused(tmp_path: Path, device: Device) -> None:
    tensors = quantised_tensors()
    for part in ("scales", "biases"):
        tensors[f"a.{part}"] = ("U8", np.zeros((8, 2), np.uint8))
    matrix_refused(tmp_path, device, tensors, "'a.scales'", "got U8")


def test_quantised_matrix_that_config_does_not_mention_is_refused(
    tmp_path: Path, device: Device
) -> None:
    checkpoint = open_with(tmp_path, quantised_tensors())
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_moe"}')
    dense = DenseWeights(Checkpoint.open(checkpoint.path), device)
    with pytest.raises(
        CheckpointError, match=r"'a\.scales' exists, but .*config\.json does not say"
    ):
        dense.matrix("a", 8, 64)


def test_columns_that_are_no_whole_groups_are_refused(tmp_path: Path, device: Device) -> None:
    dense = DenseWeights(open_with(tmp_path, quantised_tensors()), device)
    with pytest.raises(
        CheckpointError, match=r"'a\.weight': wanted whole groups of 32 columns, got 48"
    ):
        dense.matrix("a", 8, 48)


def test_vector_of_another_length_is_refused(tmp_path: Path, device: Device) -> None:
    dense = DenseWeights(open_with(tmp_path, {"n": encode(normal(5), "F32")}), device)
    with pytest.raises(CheckpointError, match=r"'n': wanted shape \[4\], got \[5\]"):
        dense.vector("n", 4)


def test_convolution_of_another_shape_is_refused(tmp_path: Path, device: Device) -> None:
    dense = DenseWeights(open_with(tmp_path, {"c": encode(normal(4, 8, 1), "F32")}), device)
    with pytest.raises(CheckpointError, match=r"\[8, 4, 1\] or \[8, 1, 4\], got \[4, 8, 1\]"):
        dense.convolution("c", 8, 4)


@pytest.mark.parametrize("n_bytes_lost", [1, 256, None])
def test_file_shortened_after_opening_is_refused(
    tmp_path: Path, device: Device, n_bytes_lost: int | None
) -> None:
    checkpoint = open_with(tmp_path, {"n": encode(normal(64), "F32")})
    path = tmp_path / "model.safetensors"
    nbytes = path.stat().st_size
    left = 0 if n_bytes_lost is None else nbytes - n_bytes_lost
    os.truncate(path, left)
    wanted = f"'n' ends at byte {nbytes}.*now has {left}" if left else "cannot be mapped"
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: .*{wanted}"):
        DenseWeights(checkpoint, device).vector("n", 64)


def test_file_removed_after_opening_is_refused(tmp_path: Path, device: Device) -> None:
    checkpoint = open_with(tmp_path, {"n": encode(normal(64), "F32")})
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be mapped"):
        DenseWeights(checkpoint, device).vector("n", 64)
