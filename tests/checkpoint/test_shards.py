"""read_tensors: every shard of a folder, and nothing outside of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from moeflux.checkpoint.shards import INDEX_NAME, read_tensors
from moeflux.errors import CheckpointError
from stored_tensors import write_safetensors


def write_shard(folder: Path, file_name: str, *names: str) -> None:
    tensors = {name: ("F32", np.zeros((2, 3), np.float32)) for name in names}
    write_safetensors(folder / file_name, tensors)


def write_index(folder: Path, weight_map: object) -> None:
    (folder / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def refused(folder: Path, *fragments: str) -> None:
    with pytest.raises(CheckpointError) as refusal:
        read_tensors(folder)
    for fragment in fragments:
        assert fragment in str(refusal.value)


def test_single_file_needs_no_index(tmp_path: Path) -> None:
    write_shard(tmp_path, "weights.safetensors", "a", "b")
    assert {tensor.path for tensor in read_tensors(tmp_path).values()} == {
        tmp_path / "weights.safetensors"
    }


def test_all_shards_are_read_without_an_index(tmp_path: Path) -> None:
    write_shard(tmp_path, "model-00001-of-00002.safetensors", "a")
    write_shard(tmp_path, "model-00002-of-00002.safetensors", "b")
    assert set(read_tensors(tmp_path)) == {"a", "b"}


def test_hidden_files_are_no_shards(tmp_path: Path) -> None:
    write_shard(tmp_path, "model.safetensors", "a")
    (tmp_path / "._model.safetensors").write_bytes(b"left by another system")
    assert set(read_tensors(tmp_path)) == {"a"}


def test_only_shards_of_the_index_are_read(tmp_path: Path) -> None:
    write_shard(tmp_path, "one.safetensors", "a")
    write_shard(tmp_path, "other.safetensors", "a", "b")
    write_index(tmp_path, {"a": "one.safetensors"})
    assert read_tensors(tmp_path)["a"].path == tmp_path / "one.safetensors"


def test_links_to_shards_are_followed(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    write_shard(tmp_path / "blobs", "0123abcd", "a")
    (tmp_path / "snapshot" / "model.safetensors").symlink_to("../blobs/0123abcd")
    assert set(read_tensors(tmp_path / "snapshot")) == {"a"}


def test_shard_missing_from_the_index_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path, "one.safetensors", "a")
    write_index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    refused(tmp_path, str(tmp_path / "two.safetensors") + ": this shard is missing")


def test_shard_missing_from_the_numbering_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path, "model-00001-of-00003.safetensors", "a")
    write_shard(tmp_path, "model-00003-of-00003.safetensors", "b")
    missing = tmp_path / "model-00002-of-00003.safetensors"
    refused(tmp_path, f"{missing}: this shard is missing")


def test_link_to_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to("nowhere")
    refused(tmp_path, str(tmp_path / "model.safetensors"), "No such file")


def test_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path, "one.safetensors", "a", "b")
    write_shard(tmp_path, "two.safetensors", "b")
    refused(tmp_path, "'b'", "one.safetensors", "two.safetensors")


@pytest.mark.parametrize("holder", ["one.safetensors", "nobody"])
def test_tensor_not_where_the_index_says_is_refused(tmp_path: Path, holder: str) -> None:
    write_shard(tmp_path, "one.safetensors", *("a", "b") if holder == "one.safetensors" else "a")
    write_shard(tmp_path, "two.safetensors", "c")
    weight_map = {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"}
    write_index(tmp_path, weight_map)
    refused(tmp_path, "'b'", str(tmp_path / "two.safetensors"))


@pytest.mark.parametrize(
    "file_name",
    [
        "../model.safetensors",
        "/model.safetensors",
        "sub/model.safetensors",
        "..\\model.safetensors",
        "C:model.safetensors",
        "model\0.safetensors",
        "model.bin",
        "..",
        "",
        None,
        3,
    ],
    ids=repr,
)
def test_index_that_points_outside_the_folder_is_refused(tmp_path: Path, file_name: object) -> None:
    write_shard(tmp_path, "model.safetensors", "a")
    folder = tmp_path / "folder"
    folder.mkdir()
    write_index(folder, {"a": file_name})
    refused(folder, INDEX_NAME, "'a'", repr(file_name))


@pytest.mark.parametrize("weight_map", [None, [], {}, "model.safetensors"], ids=repr)
def test_index_without_a_weight_map_is_refused(tmp_path: Path, weight_map: object) -> None:
    write_shard(tmp_path, "model.safetensors", "a")
    write_index(tmp_path, weight_map)
    refused(tmp_path, str(tmp_path / INDEX_NAME), "weight_map")


def test_damaged_index_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path, "model.safetensors", "a")
    (tmp_path / INDEX_NAME).write_text('{"weight_map": {"a": ')
    refused(tmp_path, str(tmp_path / INDEX_NAME), "invalid JSON")


def test_folder_without_shards_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, str(tmp_path), INDEX_NAME, "*.safetensors")


def test_shards_without_tensors_are_refused(tmp_path: Path) -> None:
    write_shard(tmp_path, "model.safetensors")
    refused(tmp_path, "no tensors", "model.safetensors")


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", str(tmp_path / "nowhere"), "No such file")


def test_file_instead_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    refused(tmp_path / "file", str(tmp_path / "file"), "Not a directory")
