"""Reads a checkpoint again and compares it with the checksums of its manifest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from moeflux._core import crc32c
from moeflux.checkpoint.checkpoint import Checkpoint
from moeflux.checkpoint.convert_files import Progress, SourceFiles, in_order
from moeflux.checkpoint.packed_experts import is_packed
from moeflux.checkpoint.packed_manifest import DENSE_NAME, MANIFEST_NAME, Manifest, read_manifest
from moeflux.checkpoint.safetensors import read_header
from moeflux.errors import CheckpointError, ReadError

_CHUNK_NBYTES = 8 << 20
_N_WORKERS = 4


@dataclass(frozen=True)
class DamagedPart:
    """Bytes that are not what was written, or cannot be read: which, where, and in what way."""

    path: Path
    offset: int
    nbytes: int
    what: str
    reason: str
    layer: int | None = None
    expert: int | None = None

    def __str__(self) -> str:
        return (
            f"{self.what}: {self.reason} ({self.nbytes} bytes at offset {self.offset} "
            f"of {self.path})"
        )


@dataclass(frozen=True)
class Verification:
    """What was read again. Without checksums only headers, sizes and ranges were checked."""

    path: Path
    has_checksums: bool
    nbytes: int
    n_records: int
    damaged: tuple[DamagedPart, ...]


@dataclass(frozen=True)
class _Part:
    """Bytes with a checksum."""

    path: Path
    offset: int
    nbytes: int
    checksum: int
    what: str
    layer: int | None = None
    expert: int | None = None

    def damaged(self, reason: str) -> DamagedPart:
        return DamagedPart(
            self.path, self.offset, self.nbytes, self.what, reason, self.layer, self.expert
        )


def verify(
    folder: str | os.PathLike[str], *, progress: Callable[[Progress], None] | None = None
) -> Verification:
    """Read every record, tensor and file of a packed checkpoint from the drive again.

    Of a checkpoint without checksums, headers, sizes and ranges are checked. Raises
    CheckpointError if the manifest or, without one, any header is damaged.
    """
    path = Path(folder)
    if is_packed(path):
        return _verify_packed(path, read_manifest(path / MANIFEST_NAME), progress)
    checkpoint = Checkpoint.open(path)
    experts = checkpoint.expert_source
    n_records = 0
    for layer in experts.layers:
        n_records += experts.find(layer, experts.shape(layer)).n_experts
    return Verification(path, has_checksums=False, nbytes=0, n_records=n_records, damaged=())


def _verify_packed(
    folder: Path, manifest: Manifest, progress: Callable[[Progress], None] | None
) -> Verification:
    parts = [*_plain_parts(folder, manifest), *_expert_parts(folder, manifest)]
    damaged = list(_wrong_sizes(folder, manifest))
    try:
        parts += _dense_parts(folder, manifest)
    except CheckpointError as error:
        path = folder / DENSE_NAME
        damaged.append(DamagedPart(path, 0, 0, f"header of {DENSE_NAME}", str(error)))
    total, done = sum(part.nbytes for part in parts), 0
    with SourceFiles(from_drive=True) as files, ThreadPoolExecutor(_N_WORKERS) as workers:
        reasons = in_order(workers, lambda part: _reason(files, part), parts)
        for part, reason in zip(parts, reasons, strict=True):
            if reason:
                damaged.append(part.damaged(reason))
            done += part.nbytes
            if progress is not None:
                progress(Progress(done, total, part.path.name))
    n_records = sum(part.expert is not None for part in parts)
    return Verification(
        folder, has_checksums=True, nbytes=total, n_records=n_records, damaged=tuple(damaged)
    )


def _reason(files: SourceFiles, part: _Part) -> str:
    """Why the part is damaged; empty if it is whole."""
    buffer = memoryview(bytearray(min(part.nbytes, _CHUNK_NBYTES)))
    checksum = 0
    try:
        for first in range(0, part.nbytes, _CHUNK_NBYTES):
            data = buffer[: min(_CHUNK_NBYTES, part.nbytes - first)]
            files.read_into(part.path, part.offset + first, data)
            checksum = crc32c(data, checksum)
    except ReadError as error:
        return str(error)
    if checksum != part.checksum:
        return f"wanted checksum {part.checksum:08x}, got {checksum:08x}"
    return ""


def _wrong_sizes(folder: Path, manifest: Manifest) -> Iterator[DamagedPart]:
    """Bytes behind the end that was written; missing ones show when they are read."""
    sizes = {file.name: file.nbytes for file in manifest.experts.values()}
    sizes |= {name: file.nbytes for name, file in manifest.files.items()}
    if manifest.dense is not None:
        sizes[DENSE_NAME] = manifest.dense.nbytes
    for name, nbytes in sorted(sizes.items()):
        path = folder / name
        got = path.stat().st_size if path.is_file() else 0
        if got > nbytes:
            yield DamagedPart(path, nbytes, got - nbytes, name, "bytes behind the end")


def _plain_parts(folder: Path, manifest: Manifest) -> Iterator[_Part]:
    for name, file in sorted(manifest.files.items()):
        yield _Part(folder / name, 0, file.nbytes, file.checksum, name)


def _expert_parts(folder: Path, manifest: Manifest) -> Iterator[_Part]:
    for layer, file in sorted(manifest.experts.items()):
        for expert, checksum in enumerate(file.checksums):
            yield _Part(
                folder / file.name,
                expert * file.record_nbytes,
                file.record_nbytes,
                checksum,
                f"layer {layer} expert {expert}",
                layer,
                expert,
            )


def _dense_parts(folder: Path, manifest: Manifest) -> list[_Part]:
    """The header and every tensor. Raises CheckpointError if the header is damaged."""
    dense, path = manifest.dense, folder / DENSE_NAME
    if dense is None:
        raise CheckpointError(f"{folder / MANIFEST_NAME}: no dense weights")
    tensors = read_header(path)
    if tensors.keys() != dense.checksums.keys():
        raise CheckpointError(f"{path}: its tensors are not those of {MANIFEST_NAME}")
    header_nbytes = min(tensor.offset for tensor in tensors.values())
    parts = [_Part(path, 0, header_nbytes, dense.header_checksum, f"header of {DENSE_NAME}")]
    for name, tensor in tensors.items():
        parts.append(
            _Part(path, tensor.offset, tensor.nbytes, dense.checksums[name], f"tensor {name}")
        )
    return parts
