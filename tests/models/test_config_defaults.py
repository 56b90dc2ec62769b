"""What a config.json leaves out is what transformers assumes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from moeflux.checkpoint import Checkpoint
from moeflux.models import qwen3_5_moe, qwen3_moe
from tiny_checkpoint import CheckpointFolders


def without(folder: Path, target: Path, *keys: str) -> Checkpoint:
    """A copy of a checkpoint whose config.json lacks `keys`, wherever they stand."""

    def strip(value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {key: strip(inner) for key, inner in value.items() if key not in keys}

    shutil.copytree(folder, target)
    config = target / "config.json"
    config.write_text(json.dumps(strip(json.loads(config.read_text()))))
    return Checkpoint.open(target)


@pytest.mark.parametrize("kind", ["qwen3_5_moe", "qwen3_next"])
def test_hybrids_rotate_a_quarter_of_the_head(
    tiny_folder: CheckpointFolders, tmp_path: Path, kind: str
) -> None:
    checkpoint = without(tiny_folder(kind, "mlx"), tmp_path / kind, "partial_rotary_factor")
    config = qwen3_5_moe.Config.from_checkpoint(checkpoint)
    assert config.attention.rope_dim == config.head_dim // 4


def test_qwen3_moe_rotates_the_whole_head(tiny_folder: CheckpointFolders, tmp_path: Path) -> None:
    folder = tiny_folder("qwen3_moe", "mlx")
    checkpoint = without(folder, tmp_path / "whole", "partial_rotary_factor")
    config = qwen3_moe.Config.from_checkpoint(checkpoint)
    assert config.attention.rope_dim == config.head_dim


def test_hybrids_have_full_attention_in_every_fourth_layer(
    tiny_folder: CheckpointFolders, tmp_path: Path
) -> None:
    folder = tiny_folder("qwen3_5_moe", "mlx")
    checkpoint = without(folder, tmp_path / "types", "layer_types", "full_attention_interval")
    config = qwen3_5_moe.Config.from_checkpoint(checkpoint)
    linear, full = qwen3_5_moe.LINEAR_ATTENTION, qwen3_5_moe.FULL_ATTENTION
    assert config.layer_types == (linear, linear, linear, full)
