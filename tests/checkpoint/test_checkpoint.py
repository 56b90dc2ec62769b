"""Checkpoint: names and conventions of published and converted checkpoints of each family."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from moeflux.checkpoint import Checkpoint
from moeflux.errors import CheckpointError
from stored_tensors import Stored, write_safetensors
from tiny_checkpoint import HfLayout, MlxLayout, TinyModel, write_hf, write_mlx

KINDS = ("qwen3_5_moe", "qwen3_next", "qwen3_moe")


def open_with(folder: Path, *shapes: tuple[str, tuple[int, ...]], **config: object) -> Checkpoint:
    """A checkpoint of nothing but zeros of these names and shapes."""
    tensors: dict[str, Stored] = {
        name: ("BF16", np.zeros(shape, np.uint16)) for name, shape in shapes
    }
    folder.mkdir(exist_ok=True)
    write_safetensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_next"} | config))
    return Checkpoint.open(folder)


@pytest.mark.parametrize(
    ("kind", "trunk", "lm_head"),
    [
        ("qwen3_5_moe", "model.language_model", "lm_head"),
        ("qwen3_next", "model", "lm_head"),
        ("qwen3_moe", "model", "lm_head"),
    ],
)
def test_published_checkpoints_are_recognised(
    tmp_path: Path, kind: str, trunk: str, lm_head: str
) -> None:
    write_hf(TinyModel(kind), tmp_path)
    checkpoint = Checkpoint.open(tmp_path)
    assert (checkpoint.model_type, checkpoint.style) == (kind, "hf")
    assert (checkpoint.trunk, checkpoint.lm_head) == (trunk, lm_head)
    assert checkpoint.has(f"{checkpoint.layer(3)}.input_layernorm.weight")


@pytest.mark.parametrize("bits", [4, None])
@pytest.mark.parametrize(
    ("kind", "trunk", "lm_head"),
    [
        ("qwen3_5_moe", "language_model.model", "language_model.lm_head"),
        ("qwen3_next", "model", "lm_head"),
        ("qwen3_moe", "model", "lm_head"),
    ],
)
def test_converted_checkpoints_are_recognised(
    tmp_path: Path, kind: str, trunk: str, lm_head: str, bits: int | None
) -> None:
    write_mlx(TinyModel(kind), tmp_path, MlxLayout(bits=bits))
    checkpoint = Checkpoint.open(str(tmp_path))
    assert (checkpoint.model_type, checkpoint.style) == (kind, "mlx")
    assert (checkpoint.trunk, checkpoint.lm_head) == (trunk, lm_head)
    assert checkpoint.has(f"{checkpoint.layer(3)}.input_layernorm.weight")


def test_convolution_decides_the_style_whatever_else_is_there(tmp_path: Path) -> None:
    conv = "model.layers.0.linear_attn.conv1d.weight"
    converted = open_with(tmp_path / "a", (conv, (8, 4, 1)), ("mtp.fc.weight", (2, 2)))
    assert converted.style == "mlx"
    switch = "model.layers.0.mlp.switch_mlp.up_proj.weight"
    assert open_with(tmp_path / "b", (conv, (8, 1, 4)), (switch, (2, 2, 2))).style == "hf"


def test_convolutions_of_both_layouts_are_refused(tmp_path: Path) -> None:
    names = [f"model.layers.{layer}.linear_attn.conv1d.weight" for layer in (0, 1)]
    checkpoint = open_with(tmp_path, (names[0], (8, 4, 1)), (names[1], (8, 1, 4)))
    with pytest.raises(CheckpointError, match=r"two layouts.*conv1d.*conv1d"):
        _ = checkpoint.style


def test_tied_embeddings_give_the_logits(tmp_path: Path) -> None:
    write_mlx(TinyModel(tied=True), tmp_path)
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.lm_head == checkpoint.embed_tokens == "language_model.model.embed_tokens"


def test_missing_lm_head_is_refused_unless_tied(tmp_path: Path) -> None:
    checkpoint = open_with(tmp_path, ("model.embed_tokens.weight", (4, 4)))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight.*tie_word_embeddings is false"):
        _ = checkpoint.lm_head


def test_checkpoint_without_a_text_model_is_refused(tmp_path: Path) -> None:
    checkpoint = open_with(tmp_path, ("visual.patch_embed.weight", (4, 4)))
    with pytest.raises(CheckpointError, match=r"no text model.*embed_tokens\.weight"):
        _ = checkpoint.trunk


def test_missing_tensor_is_named_with_files_and_similar_names(tmp_path: Path) -> None:
    write_hf(TinyModel("qwen3_moe"), tmp_path, HfLayout(n_shards=2))
    with pytest.raises(CheckpointError) as refusal:
        Checkpoint.open(tmp_path).entry("model.layers.0.self_attn.q_porj.weight")
    for fragment in (
        str(tmp_path),
        "model-00001-of-00002.safetensors",
        "'model.layers.0.self_attn.q_porj.weight'",
        "model.layers.0.self_attn.q_proj.weight",
    ):
        assert fragment in str(refusal.value)


def test_many_files_are_abbreviated(tmp_path: Path) -> None:
    write_hf(TinyModel("qwen3_moe"), tmp_path, HfLayout(n_shards=6))
    with pytest.raises(CheckpointError, match=r"model-00006-of-00006\.safetensors \(6 files\)"):
        Checkpoint.open(tmp_path).entry("nonsense")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stacked", [False, True])
def test_bytes_are_split_into_experts_and_dense(tmp_path: Path, kind: str, stacked: bool) -> None:
    model = TinyModel(kind)
    written = write_hf(model, tmp_path, HfLayout(dtype="F32", stacked_experts=stacked))
    checkpoint = Checkpoint.open(tmp_path)
    n_elements = sum(weight.size for weight in written.weights.values())
    n_expert_elements = model.n_layers * model.n_experts * 3 * model.expert_width * model.hidden
    assert checkpoint.expert_nbytes == 4 * n_expert_elements
    assert checkpoint.dense_nbytes == 4 * (n_elements - n_expert_elements)


def test_other_than_text_tensors_are_counted_nowhere(tmp_path: Path) -> None:
    checkpoint = open_with(
        tmp_path,
        ("model.language_model.embed_tokens.weight", (4, 4)),
        ("lm_head.weight", (4, 4)),
        ("model.visual.patch_embed.weight", (100, 4)),
        ("mtp.layers.0.mlp.experts.gate_up_proj", (100, 4)),
    )
    assert (checkpoint.dense_nbytes, checkpoint.expert_nbytes) == (64, 0)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere/config\.json: cannot be read"):
        Checkpoint.open(tmp_path / "nowhere")
