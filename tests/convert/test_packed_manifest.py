"""A packed folder is opened only if its manifest makes sense and its files have the right sizes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conversion_sources import Sources

from moeflux.checkpoint import Checkpoint, ExpertShape
from moeflux.checkpoint.convert import convert
from moeflux.checkpoint.packed_manifest import manifest_text, read_manifest
from moeflux.errors import CheckpointError


@pytest.fixture(scope="module")
def whole(source_folder: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manifest") / "packed"
    convert(source_folder("mlx-mixed"), folder)
    return folder


@pytest.fixture
def packed(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "packed"))


def test_a_manifest_that_is_read_and_written_is_the_same(whole: Path) -> None:
    path = whole / "moeflux.json"
    assert manifest_text(read_manifest(path)) == path.read_bytes()


def test_layers_may_differ_in_format(whole: Path) -> None:
    checkpoint = Checkpoint.open(whole)
    shapes = [checkpoint.expert_source.shape(layer) for layer in range(3)]
    first, second, third = (checkpoint.experts(n, shape) for n, shape in enumerate(shapes))
    assert first.places.down_proj.format.bits == 4
    assert second.places.down_proj.format.bits == 8
    assert not third.places.gate_proj.format.quantised
    assert third.record_nbytes > first.record_nbytes


def test_another_shape_is_refused(whole: Path) -> None:
    checkpoint = Checkpoint.open(whole)
    with pytest.raises(CheckpointError, match=r"layer_00\.bin: wanted ExpertShape\(n_experts=9"):
        checkpoint.experts(0, ExpertShape(9, 64, 128))


def test_a_layer_that_is_not_in_the_manifest_has_no_routed_experts(whole: Path) -> None:
    with pytest.raises(CheckpointError, match="no routed experts in layer 4"):
        Checkpoint.open(whole).experts(4, ExpertShape(8, 64, 128))


@pytest.mark.parametrize("name", ["dense.safetensors", "experts/layer_02.bin"])
def test_a_file_of_another_size_is_refused(name: str, packed: Path) -> None:
    with (packed / name).open("ab") as file:
        file.write(b"x")
    with pytest.raises(CheckpointError, match=r"wanted \d+ bytes by moeflux.json, got \d+"):
        Checkpoint.open(packed)


@pytest.mark.parametrize("name", ["dense.safetensors", "experts/layer_02.bin", "config.json"])
def test_a_missing_file_is_refused(name: str, packed: Path) -> None:
    (packed / name).unlink()
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        Checkpoint.open(packed)


def test_a_foreign_safetensors_file_is_not_read(packed: Path) -> None:
    (packed / "other.safetensors").write_bytes(b"not a safetensors file")
    assert Checkpoint.open(packed).expert_source.layers == (0, 1, 2, 3)


def record_nbytes(values: Any) -> None:
    values["experts"]["0"]["record_nbytes"] += 1


def small_record(values: Any) -> None:
    values["experts"]["2"]["record_nbytes"] = 16384


def overlapping_blocks(values: Any) -> None:
    values["experts"]["0"]["up_proj"]["offsets"][0] -= 16


def missing_offset(values: Any) -> None:
    values["experts"]["0"]["up_proj"]["offsets"].pop()


def unsupported_bits(values: Any) -> None:
    values["experts"]["0"]["up_proj"]["bits"] = 7


def other_rows(values: Any) -> None:
    values["experts"]["0"]["up_proj"]["rows"] = 32


def layer_name(values: Any) -> None:
    values["experts"]["00"] = values["experts"]["0"]


def no_experts(values: Any) -> None:
    values["experts"]["0"]["crc32c"] = []


def version(values: Any) -> None:
    values["version"] = 2


def file_outside(values: Any) -> None:
    values["files"]["../config.json"] = values["files"]["config.json"]


def no_dense(values: Any) -> None:
    values["dense"] = None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (record_nbytes, "record_nbytes: wanted a multiple of 16384"),
        (small_record, r"blocks end at \d+ of 16384 bytes"),
        (overlapping_blocks, "overlaps or is not aligned"),
        (missing_offset, "offsets: wanted of weight, scales and biases"),
        (unsupported_bits, "up_proj: affine quantisation with 7 bits"),
        (other_rows, "up_proj and down_proj do not fit"),
        (layer_name, "wanted a layer's number, got '00'"),
        (no_experts, "wanted a checksum for each expert"),
        (version, "version: wanted 1"),
        (file_outside, r"wanted a file in the folder, got '\.\./config\.json'"),
        (no_dense, "dense: wanted an object"),
    ],
)
def test_a_damaged_manifest_is_refused(
    damage: Callable[[Any], None], message: str, packed: Path
) -> None:
    path = packed / "moeflux.json"
    values = json.loads(path.read_text())
    damage(values)
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=message) as raised:
        Checkpoint.open(packed)
    assert "moeflux.json" in str(raised.value)
