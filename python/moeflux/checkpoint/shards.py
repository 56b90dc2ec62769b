"""All tensors of a checkpoint folder, whatever files they are spread over. Reads no tensor data."""

from __future__ import annotations

import re
from pathlib import Path

from moeflux.checkpoint.json_file import read_object, unreadable
from moeflux.checkpoint.safetensors import TensorEntry, read_header
from moeflux.errors import CheckpointError

INDEX_NAME = "model.safetensors.index.json"
_SUFFIX = ".safetensors"
_NUMBERED = re.compile(r"(.*-)(\d+)-of-(\d+)" + re.escape(_SUFFIX))


def read_tensors(folder: Path) -> dict[str, TensorEntry]:
    """The tensors of every shard in the index; without an index, of all *.safetensors files.

    Raises CheckpointError for a missing shard, a tensor that two shards hold or that is not where
    the index says, an index that points outside the folder, and whatever `read_header` refuses.
    """
    found = _names_in(folder)
    weight_map = _read_weight_map(folder / INDEX_NAME) if INDEX_NAME in found else {}
    names = sorted(set(weight_map.values())) if weight_map else _complete_shards(folder, found)
    tensors: dict[str, TensorEntry] = {}
    for name in names:
        if name not in found:
            raise CheckpointError(f"{folder / name}: this shard is missing")
        for tensor in read_header(folder / name).values():
            other = tensors.setdefault(tensor.name, tensor)
            if other is not tensor:
                raise CheckpointError(
                    f"{tensor.path}: tensor {tensor.name!r} is also in {other.path}"
                )
    for tensor_name, name in weight_map.items():
        if tensor_name not in tensors or tensors[tensor_name].path.name != name:
            raise CheckpointError(
                f"{folder / name}: tensor {tensor_name!r} of {INDEX_NAME} is not in it"
            )
    if not tensors:
        raise CheckpointError(f"{folder}: no tensors in {', '.join(names)}")
    return tensors


def _read_weight_map(index: Path) -> dict[str, str]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: weight_map must map tensor names to files")
    for tensor_name, name in weight_map.items():
        if not isinstance(name, str) or not _is_file_name(name):
            raise CheckpointError(
                f"{index}: weight_map of {tensor_name!r}: wanted a {_SUFFIX} file beside the "
                f"index, got {name!r}"
            )
    return weight_map


def _is_file_name(name: str) -> bool:
    # Both separators and drive letters, so that a checkpoint means the same on every system.
    return name.endswith(_SUFFIX) and name.isprintable() and not any(c in name for c in "/\\:")


def _names_in(folder: Path) -> set[str]:
    try:
        return {path.name for path in folder.iterdir()}
    except OSError as error:
        raise unreadable(folder, error) from error


def _complete_shards(folder: Path, found: set[str]) -> list[str]:
    # Hidden files are remains of copies from other systems ("._model.safetensors"), not shards.
    names = sorted(name for name in found if name.endswith(_SUFFIX) and not name.startswith("."))
    if not names:
        raise CheckpointError(f"{folder}: wanted {INDEX_NAME} or *{_SUFFIX}, found neither")
    # model-00001-of-00003.safetensors promises two more, even where no index says so.
    promises = {
        (match[1], len(match[2]), match[3])
        for name in names
        if (match := _NUMBERED.fullmatch(name))
    }
    for stem, n_digits, total in sorted(promises):
        for number in range(1, int(total) + 1):
            wanted = f"{stem}{number:0{n_digits}}-of-{total}{_SUFFIX}"
            if wanted not in found:
                raise CheckpointError(f"{folder / wanted}: this shard is missing")
    return names
