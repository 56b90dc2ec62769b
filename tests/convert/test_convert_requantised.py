"""Conversion to other bits: what becomes of which matrix, and how far its weights move."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conversion_sources import N_EXPERTS, Sources
from stored_files import digests, read_tensors

import moeflux
from moeflux.checkpoint import Checkpoint
from moeflux.checkpoint.convert import convert
from moeflux.checkpoint.experts import block_offsets, block_sizes, matrix_places
from moeflux.checkpoint.quantization import Affine
from moeflux.errors import CheckpointError
from moeflux.quant import AFFINE_BITS
from stored_tensors import Float32, dequantise
from tiny_checkpoint import HfLayout, MlxLayout, TinyModel, write_hf, write_mlx

STEP_SHARE = 0.52
"""Of a group's range over 2^bits - 1: half a step, and 4 % for bfloat16 scales and biases."""


def stored_experts(folder: Path, layer: int) -> dict[str, Float32]:
    """The dequantised experts of a layer, read from the packed file."""
    checkpoint = Checkpoint.open(folder)
    experts = checkpoint.experts(layer, checkpoint.expert_source.shape(layer))
    data = (folder / "experts" / f"layer_{layer:02}.bin").read_bytes()
    weights: dict[str, Float32] = {}
    names = ("gate_proj", "up_proj", "down_proj")
    for name, place in zip(names, matrix_places(experts.places), strict=True):
        sizes = block_sizes(place.rows, place.cols, place.format)
        matrices = []
        for expert in range(N_EXPERTS):
            start = expert * experts.record_nbytes
            blocks = [
                data[start + offset : start + offset + nbytes]
                for offset, nbytes in zip(block_offsets(place), sizes, strict=True)
            ]
            kinds = zip(("weight", "scales", "biases"), ("<u4", "<u2", "<u2"), strict=True)
            parts = {
                part: (
                    "U32" if part == "weight" else "BF16",
                    np.frombuffer(block, kind).reshape(place.rows, -1),
                )
                for (part, kind), block in zip(kinds, blocks, strict=True)
            }
            matrices.append(dequantise(parts, place.format.bits, place.format.group_size))
        weights[name] = np.stack(matrices)
    return weights


def assert_close(actual: Float32, expected: Float32, bits: int, group_size: int) -> None:
    groups = expected.reshape(-1, group_size)
    spread = groups.max(-1) - groups.min(-1)
    error = abs(actual.reshape(-1, group_size) - groups).max(-1)
    # An eight-bit step is no wider than the rounding of a bias of bfloat16.
    allowed = STEP_SHARE * spread / (2**bits - 1) + 2.0**-8 * (abs(groups).max(-1) + spread)
    assert (error <= allowed).all()


@pytest.mark.parametrize("bits", AFFINE_BITS)
def test_raw_experts_move_by_half_a_step_at_most(bits: int, tmp_path: Path) -> None:
    source = write_hf(TinyModel(n_layers=1), tmp_path / "source")
    convert(source.path, tmp_path / "packed", bits=bits)
    for name, weights in stored_experts(tmp_path / "packed", 0).items():
        assert_close(weights, source.weights[f"layers.0.mlp.experts.{name}"], bits, 64)


@pytest.mark.parametrize("per_expert", [False, True])
def test_every_layout_of_raw_experts_gives_the_same_records(
    per_expert: bool, tmp_path: Path
) -> None:
    layout = HfLayout(stacked_experts=not per_expert)
    source = write_hf(TinyModel(kind="qwen3_next", n_layers=1), tmp_path / "source", layout)
    convert(source.path, tmp_path / "packed", bits=4)
    for name, weights in stored_experts(tmp_path / "packed", 0).items():
        assert_close(weights, source.weights[f"layers.0.mlp.experts.{name}"], 4, 64)


def test_quantised_experts_move_from_what_they_were_dequantised(tmp_path: Path) -> None:
    source = write_mlx(TinyModel(n_layers=1), tmp_path / "source", MlxLayout(bits=8))
    convert(source.path, tmp_path / "packed", bits=3, group_size=32)
    for name, weights in stored_experts(tmp_path / "packed", 0).items():
        assert_close(weights, source.weights[f"layers.0.mlp.experts.{name}"], 3, 32)


def test_dense_matrices_are_quantised_and_other_tensors_are_not(tmp_path: Path) -> None:
    model = TinyModel(n_layers=4)
    source = write_hf(model, tmp_path / "source")
    convert(source.path, tmp_path / "packed", bits=4)
    tensors = read_tensors(tmp_path / "packed")
    quantised = {name.removesuffix(".scales") for name in tensors if name.endswith(".scales")}
    prefix = "language_model."
    named = {name.removeprefix(prefix).removeprefix("model.") for name in quantised}
    matrices = {
        name
        for name, weight in source.weights.items()
        if weight.ndim == 2 and not name.endswith("conv1d")
    }
    assert named == matrices
    for name in matrices:
        base = prefix + (name if name == "lm_head" else f"model.{name}")
        bits = 8 if name.endswith(("mlp.gate", "shared_expert_gate")) else 4
        parts = {
            part: ("U32" if part == "weight" else "BF16", tensors[f"{base}.{part}"])
            for part in ("weight", "scales", "biases")
        }
        assert_close(dequantise(parts, bits, 64), source.weights[name], bits, 64)


def test_quantised_routers_stay_as_they_are(tmp_path: Path) -> None:
    layout = MlxLayout(bits=4, overrides={})
    source = write_mlx(TinyModel(), tmp_path / "source", layout)
    convert(source.path, tmp_path / "packed", bits=8)
    before, after = read_tensors(source.path), read_tensors(tmp_path / "packed")
    name = "language_model.model.layers.0.mlp.gate"
    for part in ("weight", "scales", "biases"):
        np.testing.assert_array_equal(before[f"{name}.{part}"], after[f"{name}.{part}"])


def test_the_same_bits_are_a_copy(source_folder: Sources, tmp_path: Path) -> None:
    convert(source_folder("mlx"), tmp_path / "as-is")
    convert(source_folder("mlx"), tmp_path / "four", bits=4)
    as_is, four = digests(tmp_path / "as-is"), digests(tmp_path / "four")
    as_is.pop("moeflux.json")
    four.pop("moeflux.json")
    assert as_is == four


def test_the_same_source_gives_the_same_bytes(source_folder: Sources, tmp_path: Path) -> None:
    for name in ("first", "second"):
        convert(source_folder("hf"), tmp_path / name, bits=3, group_size=32)
    assert digests(tmp_path / "first") == digests(tmp_path / "second")


def test_config_says_what_the_weights_are(source_folder: Sources, tmp_path: Path) -> None:
    convert(source_folder("hf"), tmp_path / "packed", bits=4)
    config = json.loads((tmp_path / "packed" / "config.json").read_text())
    original = json.loads((source_folder("hf") / "config.json").read_text())
    section = config.pop("quantization")
    assert config.pop("quantization_config") == section
    assert config == original
    assert (section["bits"], section["group_size"], section["mode"]) == (4, 64, "affine")
    router = "language_model.model.layers.0.mlp.gate"
    assert section[router] == {"bits": 8, "group_size": 64}
    assert Checkpoint.open(tmp_path / "packed").config.quantization.default == Affine(4, 64)


def test_rows_that_are_not_whole_groups_stay_as_they_are(tmp_path: Path) -> None:
    model = TinyModel(kind="qwen3_moe", n_layers=1, n_heads=3, n_kv_heads=1)
    source = write_hf(model, tmp_path / "source")
    convert(source.path, tmp_path / "packed", bits=4)
    before, after = read_tensors(source.path), read_tensors(tmp_path / "packed")
    name = "model.layers.0.self_attn.o_proj.weight"
    assert before[name].shape[1] % 64 != 0
    np.testing.assert_array_equal(before[name], after[name])


def test_experts_that_are_not_whole_groups_are_refused(tmp_path: Path) -> None:
    source = write_hf(TinyModel(n_layers=1), tmp_path / "source")
    with pytest.raises(CheckpointError, match=r"layer 0: .* 64 columns, .* groups of 128"):
        convert(source.path, tmp_path / "packed", bits=4, group_size=128)
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize(
    ("bits", "group_size", "message"),
    [
        (7, None, "bits must be one of"),
        (4, 16, "group_size must be one of"),
        (None, 64, "without bits"),
    ],
)
def test_unsupported_options_are_refused(
    bits: int | None,
    group_size: int | None,
    message: str,
    source_folder: Sources,
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match=message):
        convert(source_folder("hf"), tmp_path / "packed", bits=bits, group_size=group_size)


def test_a_weight_that_is_not_finite_is_named(tmp_path: Path) -> None:
    source = write_hf(TinyModel(n_layers=1), tmp_path / "source")
    checkpoint = Checkpoint.open(source.path)
    (part, *_) = checkpoint.experts(0, checkpoint.expert_source.shape(0)).ranges(3)
    data = bytearray(part.path.read_bytes())
    data[part.offset : part.offset + 2] = (0x7F80).to_bytes(2, "little")
    part.path.write_bytes(data)
    with pytest.raises(CheckpointError, match="layer 0 expert 3: weights are not finite"):
        convert(source.path, tmp_path / "packed", bits=4)


@pytest.mark.parametrize("kind", ["qwen3_5_moe", "qwen3_next", "qwen3_moe"])
def test_eight_bits_hardly_move_the_logits(kind: str, tmp_path: Path) -> None:
    source = write_hf(TinyModel(kind=kind), tmp_path / "source", HfLayout(dtype="F32"))
    convert(source.path, tmp_path / "packed", bits=8, group_size=32)
    logits = []
    for folder in (source.path, tmp_path / "packed"):
        with moeflux.load(folder, device="cpu") as model:
            logits.append(model.session().prefill([5, 6, 7, 8]))
    assert np.corrcoef(logits[0], logits[1])[0, 1] > 0.99
