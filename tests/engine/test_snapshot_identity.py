"""The fingerprint of a checkpoint: the same for a copy, another for other weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import moeflux
from moeflux.checkpoint import Checkpoint
from moeflux.checkpoint.watch import FileWatch
from moeflux.engine.snapshots.identity import Fingerprint
from tiny_checkpoint import CheckpointFolders, TinyModel, write_mlx


@pytest.fixture
def folder(tiny_folder: CheckpointFolders, tmp_path: Path) -> Path:
    shutil.copytree(tiny_folder("qwen3_5_moe", "mlx"), tmp_path / "model")
    return tmp_path / "model"


def fingerprint(folder: Path) -> str:
    checkpoint = Checkpoint.open(folder)
    watch = FileWatch({tensor.path for tensor in checkpoint.tensors.values()})
    try:
        return Fingerprint(checkpoint, watch).value
    finally:
        watch.close()


def test_a_copy_elsewhere_is_the_same_checkpoint(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert fingerprint(tmp_path / "elsewhere") == fingerprint(folder)


def test_other_weights_of_the_same_shapes_are_another(folder: Path, tmp_path: Path) -> None:
    write_mlx(TinyModel(kind="qwen3_5_moe", seed=1), tmp_path / "other")
    assert fingerprint(tmp_path / "other") != fingerprint(folder)


def test_the_last_byte_of_a_file_counts(folder: Path) -> None:
    before = fingerprint(folder)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert fingerprint(folder) != before


def test_another_configuration_is_another(folder: Path) -> None:
    before = fingerprint(folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["rms_norm_eps"] = 1e-5
    (folder / "config.json").write_text(json.dumps(config))
    assert fingerprint(folder) != before


def test_spelling_of_the_configuration_does_not_count(folder: Path) -> None:
    before = fingerprint(folder)
    config = json.loads((folder / "config.json").read_text())
    reordered = dict(reversed(config.items()))
    (folder / "config.json").write_text(json.dumps(reordered, indent=4))
    assert fingerprint(folder) == before


def test_a_packed_copy_has_a_fingerprint_of_its_own(folder: Path, tmp_path: Path) -> None:
    moeflux.convert(folder, tmp_path / "packed")
    assert fingerprint(tmp_path / "packed") != fingerprint(folder)
