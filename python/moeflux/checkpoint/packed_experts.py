"""A packed checkpoint as a source of experts and tensors. Reads the manifest and one header."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moeflux.checkpoint.experts import Block, ExpertShape, LayerExperts
from moeflux.checkpoint.json_file import unreadable
from moeflux.checkpoint.packed_manifest import (
    DENSE_NAME,
    JOURNAL_NAME,
    MANIFEST_NAME,
    ExpertFile,
    Manifest,
    read_manifest,
)
from moeflux.checkpoint.safetensors import TensorEntry, read_header
from moeflux.errors import CheckpointError


@dataclass(frozen=True)
class PackedExperts:
    """The expert files of a packed checkpoint: one record per expert."""

    folder: Path
    files: Mapping[int, ExpertFile]

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted(self.files))

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.files.values())

    def shape(self, layer: int) -> ExpertShape:
        return self._file(layer).shape

    def find(self, layer: int, shape: ExpertShape) -> LayerExperts:
        """The layer's experts, each one range. Raises CheckpointError for another shape."""
        file = self._file(layer)
        path = self.folder / file.name
        if file.shape != shape:
            raise CheckpointError(f"{path}: wanted {shape}, got {file.shape}")
        n_experts, nbytes = shape.n_experts, file.record_nbytes
        records = Block(nbytes, (path,) * n_experts, range(0, n_experts * nbytes, nbytes))
        return LayerExperts(file.places, nbytes, [(0, records)], file.checksums)

    def _file(self, layer: int) -> ExpertFile:
        if layer not in self.files:
            raise CheckpointError(f"{self.folder}: no routed experts in layer {layer}")
        return self.files[layer]


def is_packed(folder: Path) -> bool:
    """Whether the folder holds a packed checkpoint.

    Raises CheckpointError if it holds one that is not whole.
    """
    if (folder / MANIFEST_NAME).exists():
        return True
    if (folder / JOURNAL_NAME).exists():
        raise CheckpointError(
            f"{folder}: its conversion is not finished: run 'moeflux convert' again with the same "
            "source to go on"
        )
    return False


def read_packed(folder: Path) -> tuple[dict[str, TensorEntry], PackedExperts]:
    """Dense tensors and experts. Raises CheckpointError if a file is missing or of another size."""
    manifest = read_manifest(folder / MANIFEST_NAME)
    for name, nbytes in file_sizes(manifest).items():
        check_size(folder / name, nbytes)
    return read_header(folder / DENSE_NAME), PackedExperts(folder, manifest.experts)


def file_sizes(manifest: Manifest) -> dict[str, int]:
    """Size of every file that holds weights. Raises CheckpointError without dense weights."""
    if manifest.dense is None:
        raise CheckpointError(f"{MANIFEST_NAME}: dense: wanted an object, got nothing")
    return {DENSE_NAME: manifest.dense.nbytes} | {
        file.name: file.nbytes for file in manifest.experts.values()
    }


def check_size(path: Path, nbytes: int) -> None:
    """Raises CheckpointError unless there is a file of this size."""
    try:
        got = path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error
    if got != nbytes:
        raise CheckpointError(f"{path}: wanted {nbytes} bytes by {MANIFEST_NAME}, got {got}")
