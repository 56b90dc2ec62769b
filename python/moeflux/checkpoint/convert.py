"""From a checkpoint to a packed one, in bounded memory, resumable, and never half visible."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from moeflux._core import crc32c
from moeflux.checkpoint.checkpoint import Checkpoint
from moeflux.checkpoint.convert_config import plain_files
from moeflux.checkpoint.convert_dense import DensePlan, plan_dense, write_dense
from moeflux.checkpoint.convert_destination import Destination, check_free, digest_source
from moeflux.checkpoint.convert_experts import RecordPlan, plan_records, write_records
from moeflux.checkpoint.convert_files import Progress, SourceFiles, exclusive, write_file, writing
from moeflux.checkpoint.packed_manifest import DENSE_NAME, PlainFile, expert_file_name
from moeflux.checkpoint.quantization import Affine
from moeflux.errors import ConversionError
from moeflux.quant import AFFINE_BITS, GROUP_SIZES

DEFAULT_GROUP_SIZE = 64
_MAX_WORKERS = 8


@dataclass(frozen=True)
class Conversion:
    """A finished conversion. kept_nbytes: what earlier, interrupted runs had done of nbytes."""

    path: Path
    nbytes: int
    kept_nbytes: int


@dataclass(frozen=True)
class _Plan:
    checkpoint: Checkpoint
    target: Affine | None
    dense: DensePlan
    layers: tuple[RecordPlan, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """Name and size of every file of weights."""
        experts = {expert_file_name(plan.layer): plan.nbytes for plan in self.layers}
        return experts | {DENSE_NAME: self.dense.nbytes}


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    bits: int | None = None,
    group_size: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    files: SourceFiles | None = None,
) -> Conversion:
    """Write the checkpoint in `source` to the folder `destination` in the packed layout.

    Without `bits` every weight keeps its bytes. With `bits` (2, 3, 4, 5, 6 or 8) matrices become
    codes of that many bits in groups of `group_size` columns (32, 64 or 128; default 64) by the
    formula in requantise.py; those that are such codes keep their bytes. Routers and shared-expert
    gates become 8 bits in groups of 64, or stay as they are where they are quantised. Dense
    matrices whose rows are not whole groups stay as they are.

    `files` reads the source where its bytes are not all there from the start.

    An interrupted conversion goes on where it stopped when it is called again; the result is the
    same, byte for byte. Raises ValueError for unsupported bits or group sizes, CheckpointError and
    ReadError for the source, and ConversionError for the destination.
    """
    plan = _plan(source, bits, group_size)
    checkpoint = plan.checkpoint
    folder = Path(destination)
    if folder.resolve() == checkpoint.path.resolve():
        raise ConversionError(f"{folder}: source and destination are the same folder")
    if not folder.exists():
        check_free(folder, sum(plan.sizes.values()))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder):
        return _Run(plan, folder, progress, files or SourceFiles()).finish()


def converted_nbytes(
    source: str | os.PathLike[str], *, bits: int | None = None, group_size: int | None = None
) -> int:
    """Bytes of weights that `convert` would write. Raises as it does for the source."""
    return sum(_plan(source, bits, group_size).sizes.values())


def _plan(source: str | os.PathLike[str], bits: int | None, group_size: int | None) -> _Plan:
    target = conversion_target(bits, group_size)
    checkpoint = Checkpoint.open(source)
    layers = tuple(_plan_layers(checkpoint, target))
    return _Plan(checkpoint, target, plan_dense(checkpoint, target), layers)


def conversion_target(bits: int | None, group_size: int | None) -> Affine | None:
    """What matrices become, None for what they are. Raises ValueError for what is unsupported."""
    if bits is None:
        if group_size is not None:
            raise ValueError(f"group_size {group_size} is given without bits")
        return None
    group_size = DEFAULT_GROUP_SIZE if group_size is None else group_size
    if bits not in AFFINE_BITS:
        raise ValueError(f"bits must be one of {AFFINE_BITS}, got {bits}")
    if group_size not in GROUP_SIZES:
        raise ValueError(f"group_size must be one of {GROUP_SIZES}, got {group_size}")
    return Affine(bits, group_size)


def _plan_layers(checkpoint: Checkpoint, target: Affine | None) -> Iterator[RecordPlan]:
    experts = checkpoint.expert_source
    for layer in experts.layers:
        yield plan_records(layer, experts.find(layer, experts.shape(layer)), target)


class _Run:
    """One call of convert, on a folder that is held against other processes."""

    def __init__(
        self,
        plan: _Plan,
        folder: Path,
        progress: Callable[[Progress], None] | None,
        files: SourceFiles,
    ) -> None:
        self._plan = plan
        self._files = files
        self._progress = progress
        expert_paths = {path for layer in plan.layers for path in layer.source.paths}
        digest = digest_source(plan.checkpoint, expert_paths)
        self._destination = Destination(folder, digest, plan.target)
        self._total_nbytes = sum(plan.sizes.values())
        self._done_nbytes = 0
        self._file = ""

    def finish(self) -> Conversion:
        """Do what is missing."""
        destination = self._destination
        folder = destination.folder
        if destination.is_whole:
            destination.remove_journal()
            return Conversion(folder, self._total_nbytes, self._total_nbytes)
        destination.check_space(self._plan.sizes)
        finished = destination.finished
        kept_nbytes = self._done_nbytes = sum(finished.values())
        with self._explaining_failures():
            destination.begin()
            self._advance(0)
            with self._files as files:
                self._write_weights(files, finished)
            destination.finish(dict(self._write_plain_files()))
        return Conversion(folder, self._total_nbytes, kept_nbytes)

    def _write_weights(self, files: SourceFiles, finished: dict[str, int]) -> None:
        plan, destination = self._plan, self._destination
        with ThreadPoolExecutor(min(_MAX_WORKERS, os.cpu_count() or 1)) as workers:
            for layer in plan.layers:
                self._file = expert_file_name(layer.layer)
                if self._file not in finished:
                    files.require(layer.source.paths, experts=True)
                    path = destination.folder / self._file
                    destination.add_experts(
                        write_records(layer, files, path, workers, self._advance)
                    )
                files.release(layer.source.paths)
        self._file = DENSE_NAME
        if self._file not in finished:
            dense_paths = {tensor.path for tensor in plan.checkpoint.dense_tensors()}
            files.require(sorted(dense_paths), experts=False)
            path = destination.folder / self._file
            destination.add_dense(write_dense(plan.dense, files, path, self._advance))

    def _write_plain_files(self) -> Iterator[tuple[str, PlainFile]]:
        plan = self._plan
        for name, data in plain_files(plan.checkpoint, plan.dense.quantised, plan.target).items():
            path = self._destination.folder / name
            with writing(path):
                path.parent.mkdir(exist_ok=True)
            write_file(path, data)
            yield name, PlainFile(len(data), crc32c(data))

    def _advance(self, nbytes: int) -> None:
        self._done_nbytes += nbytes
        if self._progress is not None:
            self._progress(Progress(self._done_nbytes, self._total_nbytes, self._file))

    @contextmanager
    def _explaining_failures(self) -> Iterator[None]:
        try:
            yield
        except ConversionError as error:
            kept = sum(self._destination.finished.values())
            raise ConversionError(
                f"{error}; {kept} of {self._total_nbytes} bytes are finished and kept in "
                f"{self._destination.folder}: run the same conversion again to go on"
            ) from error
