"""Folders of flash-moe and the Rust moeflux are read as they are, and damaged ones are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conversion_sources import N_EXPERTS, N_LAYERS
from flash_moe_folder import FlashMoeFiles, write_flash_moe
from stored_files import expert_blocks, read_tensors

import moeflux
from moeflux.checkpoint import Checkpoint
from moeflux.checkpoint.quantization import Affine
from moeflux.errors import CheckpointError
from tiny_checkpoint import MlxLayout, TinyModel, write_mlx


@pytest.fixture(scope="session")
def mlx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mlx(TinyModel(), tmp_path_factory.mktemp("flash") / "mlx").path


def edit_index(folder: Path, name: str, **values: object) -> None:
    """Change what model_weights.json says of a tensor; None removes a key."""
    path = folder / "model_weights.json"
    index = json.loads(path.read_text())
    entry = index["tensors"][name] | values
    index["tensors"][name] = {key: value for key, value in entry.items() if value is not None}
    path.write_text(json.dumps(index))


def edit_config(folder: Path, **values: object) -> None:
    path = folder / "model_weights.json"
    index = json.loads(path.read_text())
    index["config"] |= values
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    "files",
    [
        FlashMoeFiles(),
        FlashMoeFiles(bits=False, layout=False),
        FlashMoeFiles(config_file=True, bits=False),
        FlashMoeFiles(expert_folder="packed_experts_2bit"),
    ],
    ids=["bits", "no bits", "config file", "other folder"],
)
def test_logits_are_those_of_the_checkpoint_it_was_made_from(
    files: FlashMoeFiles, mlx_folder: Path, tmp_path: Path
) -> None:
    write_flash_moe(mlx_folder, tmp_path / "flash", N_EXPERTS, files)
    logits = []
    for folder in (mlx_folder, tmp_path / "flash"):
        with moeflux.load(folder, device="cpu") as model:
            session = model.session()
            logits.append(np.stack([session.prefill([5, 6, 7, 8]), session.decode(9)]))
    np.testing.assert_array_equal(logits[0].view(np.uint32), logits[1].view(np.uint32))


def test_an_expert_is_read_from_its_record(mlx_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "flash"
    write_flash_moe(mlx_folder, folder, N_EXPERTS)
    tensors = read_tensors(mlx_folder)
    checkpoint = Checkpoint.open(folder)
    for layer in range(N_LAYERS):
        experts = checkpoint.experts(layer, checkpoint.expert_source.shape(layer))
        assert experts.checksum(0) is None
        for expert in range(N_EXPERTS):
            parts = experts.ranges(expert)
            data = b"".join(p.path.read_bytes()[p.offset : p.offset + p.nbytes] for p in parts)
            assert data == b"".join(expert_blocks(tensors, layer, expert))


@pytest.mark.parametrize(("bits", "group_size"), [(2, 64), (3, 32), (4, 32), (6, 64), (8, 64)])
def test_the_size_of_a_record_tells_bits_and_group_size(
    bits: int, group_size: int, tmp_path: Path
) -> None:
    source = write_mlx(TinyModel(n_layers=1), tmp_path / "mlx", MlxLayout(bits, group_size))
    write_flash_moe(source.path, tmp_path / "flash", N_EXPERTS, FlashMoeFiles(layout=False))
    checkpoint = Checkpoint.open(tmp_path / "flash")
    experts = checkpoint.experts(0, checkpoint.expert_source.shape(0))
    stored = experts.places.gate_proj.format
    assert (stored.bits, stored.group_size) == (bits, group_size)


def test_bits_of_dense_matrices_follow_from_their_shapes(mlx_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "flash"
    write_flash_moe(mlx_folder, folder, N_EXPERTS, FlashMoeFiles(bits=False))
    quantization = Checkpoint.open(folder).config.quantization
    assert quantization.of("model.layers.0.mlp.gate") == Affine(8, 64)
    assert quantization.of("model.layers.0.linear_attn.out_proj") == Affine(4, 64)


def test_bits_that_do_not_fit_the_shapes_are_refused(mlx_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "flash"
    write_flash_moe(mlx_folder, folder, N_EXPERTS)
    edit_index(folder, "model.layers.0.mlp.gate.weight", bits=6)
    with pytest.raises(CheckpointError, match=r"'model.layers.0.mlp.gate.weight': .* not 6 bits"):
        Checkpoint.open(folder)


def test_bits_that_nothing_tells_are_refused(tmp_path: Path) -> None:
    layout = MlxLayout(overrides={"embed_tokens": None})
    source = write_mlx(TinyModel(n_layers=1), tmp_path / "mlx", layout)
    write_flash_moe(source.path, tmp_path / "flash", N_EXPERTS, FlashMoeFiles(bits=False))
    with pytest.raises(CheckpointError, match="ambiguous"):
        Checkpoint.open(tmp_path / "flash")


def test_the_architecture_follows_from_the_tensors(tmp_path: Path) -> None:
    for kind in ("qwen3_5_moe", "qwen3_next"):
        source = write_mlx(TinyModel(kind, n_layers=1), tmp_path / f"{kind}-mlx")
        write_flash_moe(source.path, tmp_path / kind, N_EXPERTS)
        assert Checkpoint.open(tmp_path / kind).model_type == kind


def test_an_architecture_that_nothing_tells_is_refused(tmp_path: Path) -> None:
    source = write_mlx(TinyModel("qwen3_moe", n_layers=1), tmp_path / "mlx")
    write_flash_moe(source.path, tmp_path / "flash", N_EXPERTS)
    with pytest.raises(CheckpointError, match=r"config.model_type: wanted .* config.json beside"):
        Checkpoint.open(tmp_path / "flash")
    edit_config(tmp_path / "flash", model_type="qwen3_moe")
    assert Checkpoint.open(tmp_path / "flash").model_type == "qwen3_moe"


def test_a_layer_without_a_file_has_no_routed_experts(mlx_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "flash"
    write_flash_moe(mlx_folder, folder, N_EXPERTS)
    (folder / "packed_experts" / "layer_00.bin").unlink()
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.expert_source.layers == (1, 2, 3)
    with pytest.raises(CheckpointError, match="no routed experts in layer 0"):
        checkpoint.experts(0, checkpoint.expert_source.shape(1))


def test_a_truncated_expert_file_is_refused(mlx_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "flash"
    write_flash_moe(mlx_folder, folder, N_EXPERTS)
    path = folder / "packed_experts" / "layer_01.bin"
    path.write_bytes(path.read_bytes()[:-1])
    checkpoint = Checkpoint.open(folder)
    with pytest.raises(CheckpointError, match=r"layer_01\.bin: \d+ bytes are not 8 records"):
        checkpoint.experts(1, checkpoint.expert_source.shape(1))


def test_a_layout_that_contradicts_the_files_is_refused(mlx_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "flash"
    write_flash_moe(mlx_folder, folder, N_EXPERTS)
    path = folder / "packed_experts" / "layout.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"expert_size": 4096}))
    checkpoint = Checkpoint.open(folder)
    with pytest.raises(CheckpointError, match=r"layout\.json: expert_size: wanted"):
        checkpoint.experts(0, checkpoint.expert_source.shape(0))


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"offset": 1 << 40}, "ends at byte"),
        ({"offset": 0}, "overlaps"),
        ({"size": 8}, "size: wanted the bytes of shape"),
        ({"dtype": "Q4"}, "dtype: wanted one of"),
        ({"shape": None}, "shape: wanted a list"),
    ],
)
def test_a_damaged_index_is_refused(
    values: dict[str, object], message: str, mlx_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "flash"
    write_flash_moe(mlx_folder, folder, N_EXPERTS)
    edit_index(folder, NORM, **values)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(folder)


@pytest.mark.parametrize("name", ["model_weights.bin", "packed_experts"])
def test_a_missing_part_is_refused(name: str, mlx_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "flash"
    write_flash_moe(mlx_folder, folder, N_EXPERTS)
    (folder / name).rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError):
        Checkpoint.open(folder)
