"""The folder that a conversion writes to: what may be in it, what is finished, what is missing.

The journal is written before anything else and after each file, the manifest after all files, and
the journal is removed last. So a folder is whole if and only if it has a manifest, and what the
journal lists is durable.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from moeflux.checkpoint.checkpoint import Checkpoint
from moeflux.checkpoint.convert_files import (
    PARTIAL_SUFFIX,
    synchronise_folder,
    write_file,
    writing,
)
from moeflux.checkpoint.json_file import unreadable
from moeflux.checkpoint.packed_manifest import (
    DENSE_NAME,
    EXPERTS_FOLDER,
    JOURNAL_NAME,
    MANIFEST_NAME,
    DenseFile,
    ExpertFile,
    Manifest,
    PlainFile,
    manifest_text,
    read_manifest,
)
from moeflux.checkpoint.quantization import Affine
from moeflux.errors import ConversionError


@dataclass(frozen=True)
class SourceDigest:
    """SHA-256 of what a source is: configuration, tensors, files and their sizes.

    `state` also covers the times of the last changes: it tells whether work done earlier may be
    joined with work done now.
    """

    content: str
    state: str


def digest_source(checkpoint: Checkpoint, expert_paths: Iterable[Path]) -> SourceDigest:
    """The digest of a checkpoint. Raises CheckpointError if a file is missing."""
    content = hashlib.sha256(repr(sorted(checkpoint.config.raw.items())).encode())
    for name, tensor in sorted(checkpoint.tensors.items()):
        place = (name, tensor.dtype, tensor.shape, tensor.path.name, tensor.offset)
        content.update(repr(place).encode())
    times: list[int] = []
    for path in sorted({tensor.path for tensor in checkpoint.tensors.values()} | {*expert_paths}):
        try:
            status = path.stat()
        except OSError as error:
            raise unreadable(path, error) from error
        content.update(repr((path.name, status.st_size)).encode())
        times.append(status.st_mtime_ns)
    state = content.copy()
    state.update(repr(times).encode())
    return SourceDigest(content.hexdigest(), state.hexdigest())


class Destination:
    """One conversion's folder. The caller holds it against other processes."""

    def __init__(self, folder: Path, digest: SourceDigest, target: Affine | None) -> None:
        """Raises ConversionError if the folder holds anything else than this conversion."""
        self.folder = folder
        self._digest = digest
        self.is_whole = (folder / MANIFEST_NAME).exists()
        self._journal = Manifest(digest.state, target)
        has_journal = (folder / JOURNAL_NAME).exists()
        if self.is_whole:
            manifest = read_manifest(folder / MANIFEST_NAME)
            self._refuse_other(manifest, digest.content, "a packed checkpoint")
        elif has_journal:
            journal = read_manifest(folder / JOURNAL_NAME)
            self._refuse_other(journal, digest.state, "an unfinished conversion")
            self._journal = journal
        else:
            self._refuse_foreign()

    @property
    def finished(self) -> dict[str, int]:
        """Name and size of each file that is finished and still there."""
        journal = self._journal
        sizes = {file.name: file.nbytes for file in journal.experts.values()}
        if journal.dense is not None:
            sizes[DENSE_NAME] = journal.dense.nbytes
        return {name: nbytes for name, nbytes in sizes.items() if self._size(name) == nbytes}

    def check_space(self, wanted: Mapping[str, int]) -> None:
        """Raises ConversionError unless the files (name and size) that are missing have room."""
        finished = self.finished
        missing = {name: nbytes for name, nbytes in wanted.items() if name not in finished}
        # What is left of an interrupted file is overwritten, so that its bytes count as free.
        reused = sum(self._size(name) + self._size(name + PARTIAL_SUFFIX) for name in missing)
        check_free(self.folder, sum(missing.values()) - reused)

    def begin(self) -> None:
        """Claim the folder: from now on it is an unfinished conversion."""
        self._write_journal()
        with writing(self.folder / EXPERTS_FOLDER):
            (self.folder / EXPERTS_FOLDER).mkdir(exist_ok=True)
            synchronise_folder(self.folder)

    def add_experts(self, file: ExpertFile) -> None:
        """Record that a layer's file is whole and durable."""
        experts = {**self._journal.experts, file.layer: file}
        self._journal = replace(self._journal, experts=experts)
        self._write_journal()

    def add_dense(self, file: DenseFile) -> None:
        """Record that the dense weights are whole and durable."""
        self._journal = replace(self._journal, dense=file)
        self._write_journal()

    def finish(self, files: Mapping[str, PlainFile]) -> None:
        """Write the manifest, which makes the folder a checkpoint."""
        manifest = replace(self._journal, source=self._digest.content, files=files)
        write_file(self.folder / MANIFEST_NAME, manifest_text(manifest))
        self.remove_journal()

    def remove_journal(self) -> None:
        """Also what a kill behind the manifest has left."""
        with writing(self.folder / JOURNAL_NAME):
            (self.folder / JOURNAL_NAME).unlink(missing_ok=True)
            synchronise_folder(self.folder)

    def _write_journal(self) -> None:
        write_file(self.folder / JOURNAL_NAME, manifest_text(self._journal))

    def _size(self, name: str) -> int:
        path = self.folder / name
        return path.stat().st_size if path.is_file() else 0

    def _refuse_other(self, found: Manifest, source: str, what: str) -> None:
        if found.target != self._journal.target:
            raise ConversionError(
                f"{self.folder}: holds {what} with {_describe(found.target)}, wanted "
                f"{_describe(self._journal.target)}: remove it or choose another folder"
            )
        if found.source != source:
            raise ConversionError(
                f"{self.folder}: holds {what} of another source, or of this one before it "
                "changed: remove it or choose another folder"
            )

    def _refuse_foreign(self) -> None:
        # A kill before the first journal leaves its partial file, which is ours.
        ours = {JOURNAL_NAME + PARTIAL_SUFFIX}
        with writing(self.folder):
            names = {path.name for path in self.folder.iterdir() if not path.name.startswith(".")}
        if names - ours:
            raise ConversionError(
                f"{self.folder}: wanted an empty folder or an unfinished conversion, found "
                f"{min(names - ours)!r}"
            )


def check_free(folder: Path, nbytes: int) -> None:
    """Raises ConversionError unless the file system of the folder has room for `nbytes`.

    The folder need not exist: then its nearest parent counts.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise ConversionError(
            f"{folder}: the conversion needs {nbytes} bytes, the file system has {free} bytes free"
        )


def _describe(target: Affine | None) -> str:
    if target is None:
        return "weights as they were"
    return f"{target.bits} bits in groups of {target.group_size}"
