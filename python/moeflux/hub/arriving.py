"""Shards that arrive while they are converted, so that no experts are on the disk twice.

The staging folder holds every shard under its name from the start: as long as the real one, with
its header and holes. It becomes whole when its experts are wanted, and loses them when the last
layer in it is converted. What is left, dense weights between holes, stays until all is done.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from moeflux.checkpoint import Checkpoint, TensorEntry
from moeflux.checkpoint.convert_files import PARTIAL_SUFFIX, SourceFiles, writing
from moeflux.hub.download import download, fetch_header
from moeflux.hub.record import DENSE, WHOLE, PullRecord
from moeflux.hub.repository import PullError, RemoteFile, Repository

SHARD_SUFFIX = ".safetensors"
_COPY_NBYTES = 8 << 20
_TIME_NS = 10**18
"""Of the last change, as far as a shard tells: a conversion goes on only if none has changed."""


def stage_headers(repository: Repository, staging: Path) -> None:
    """Make the shards that are not there yet, with their headers. Raises PullError."""
    for file in shards_of(repository):
        path = staging / file.name
        if path.exists() and path.stat().st_size == file.nbytes:
            continue
        header = fetch_header(repository, file)
        with writing(path):
            _write_sparse(path, file.nbytes, [(0, header)])


def shards_of(repository: Repository) -> list[RemoteFile]:
    """Files of weights."""
    return [file for file in repository.files if file.name.endswith(SHARD_SUFFIX)]


def arriving_path(path: Path) -> Path:
    """Where a shard is fetched to before it takes the place of the staged one."""
    return path.with_name(f"{path.name}.whole")


class ArrivingFiles(SourceFiles):
    """The staged shards of one repository, fetched and given back as a conversion goes on."""

    def __init__(
        self,
        repository: Repository,
        staging: Path,
        record: PullRecord,
        advance: Callable[[str, int], None],
    ) -> None:
        """`advance` is told of a file and how many of its bytes are there now. Raises PullError."""
        super().__init__()
        self._repository = repository
        self._staging = staging
        self._record = record
        self._advance = advance
        self._shards = {staging / file.name: file for file in shards_of(repository)}
        checkpoint = Checkpoint.open(staging)
        self._dense: dict[Path, list[TensorEntry]] = {path: [] for path in self._shards}
        for tensor in checkpoint.dense_tensors():
            self._dense[tensor.path].append(tensor)
        source = checkpoint.expert_source
        self._n_layers = Counter(
            path
            for layer in source.layers
            for path in source.find(layer, source.shape(layer)).paths
        )

    def require(self, paths: Iterable[Path], *, experts: bool) -> None:
        """Fetch those that are not there. Raises PullError."""
        for path in paths:
            state = self._record.files.get(path.name)
            if state == WHOLE or (state == DENSE and not experts):
                continue
            self._fetch(path)

    def release(self, paths: Iterable[Path]) -> None:
        """Drop the experts of those in which no further layer lies."""
        for path in paths:
            self._n_layers[path] -= 1
            if self._n_layers[path] == 0 and self._record.files.get(path.name) == WHOLE:
                self._drop_experts(path)

    def _fetch(self, path: Path) -> None:
        file = self._shards[path]
        header = _header(path)
        arriving = arriving_path(path)
        download(self._repository, file, arriving, lambda nbytes: self._advance(file.name, nbytes))
        if _header(arriving) != header:
            raise PullError(
                f"{self._repository.name}: {file.name}: its header is another one than before"
            )
        os.utime(arriving, ns=(_TIME_NS, _TIME_NS))
        self.close(path)
        arriving.replace(path)
        self._note(path, WHOLE)

    def _drop_experts(self, path: Path) -> None:
        # The record comes first: a shard that is said to be whole must never have holes.
        self._note(path, DENSE)
        parts = [(0, _header(path))]
        with writing(path), path.open("rb") as whole:
            pieces = (
                (offset, os.pread(whole.fileno(), min(_COPY_NBYTES, end - offset), offset))
                for tensor in self._dense[path]
                for end in (tensor.offset + tensor.nbytes,)
                for offset in range(tensor.offset, end, _COPY_NBYTES)
            )
            _write_sparse(path, path.stat().st_size, (*parts, *pieces))
        self.close(path)

    def _note(self, path: Path, state: str) -> None:
        self._record = self._record.with_file(path.name, state)
        self._record.write(self._staging)


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        length = file.read(8)
        return length + file.read(int.from_bytes(length, "little"))


def _write_sparse(path: Path, nbytes: int, parts: Iterable[tuple[int, bytes]]) -> None:
    """Replace a file by one of these parts with holes between them."""
    partial = path.with_name(path.name + ".holes" + PARTIAL_SUFFIX)
    with partial.open("wb") as file:
        file.truncate(nbytes)
        for offset, data in parts:
            file.seek(offset)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.utime(partial, ns=(_TIME_NS, _TIME_NS))
    partial.replace(path)
