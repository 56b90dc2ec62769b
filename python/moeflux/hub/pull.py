"""A model from the hub to a folder, resumable, as it is or converted while it arrives."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from moeflux.checkpoint import Checkpoint
from moeflux.checkpoint.convert import conversion_target, convert, converted_nbytes
from moeflux.checkpoint.convert_files import Progress, exclusive
from moeflux.checkpoint.packed_manifest import MANIFEST_NAME
from moeflux.errors import ConversionError
from moeflux.hub.arriving import ArrivingFiles, arriving_path, shards_of, stage_headers
from moeflux.hub.download import arrived_nbytes, download, is_whole
from moeflux.hub.record import RECORD_NAME, STAGING_NAME, WHOLE, PullRecord, read_record
from moeflux.hub.repository import (
    CONFIG_NAME,
    HUB_ID,
    PullError,
    RemoteFile,
    Repository,
    look_up,
)
from moeflux.hub.resolve import pulled_folder
from moeflux.memory import format_size
from moeflux.settings import Settings, user_path


@dataclass(frozen=True)
class PullOptions:
    """What to make of the weights: with `convert` the packed layout, of `bits` if given.

    Raises ValueError for what is unsupported.
    """

    convert: bool = False
    bits: int | None = None
    group_size: int | None = None

    def __post_init__(self) -> None:
        if not self.convert and (self.bits is not None or self.group_size is not None):
            raise ValueError("bits and group_size are for a conversion; ask for one as well")
        conversion_target(self.bits, self.group_size)


@dataclass(frozen=True)
class PullProgress:
    """Who is told of bytes that are fetched, and of bytes that are converted."""

    fetched: Callable[[Progress], None] | None = None
    converted: Callable[[Progress], None] | None = None


@dataclass(frozen=True)
class Pulled:
    """A model that is here now. fetched_nbytes: what of it this call has fetched."""

    path: Path
    repository: str
    commit: str
    fetched_nbytes: int


def pull(
    model: str,
    destination: Path | None = None,
    options: PullOptions | None = None,
    *,
    settings: Settings | None = None,
    progress: PullProgress | None = None,
) -> Pulled:
    """Fetch "org/name" or "org/name@revision" and compare every file with the hub's checksum.

    destination: a new, empty or unfinished folder; a place in Settings.models_folder if not given.
    With options.convert shards are converted one by one while they arrive, and each is removed
    when its experts are converted. Called again after an interruption it goes on at the same
    commit; called again later it fetches what has changed.

    Raises ValueError for a name that is not a hub id, the home of nobody and unsupported options,
    PullError,
    WrongBytesError, CheckpointError for what is no checkpoint, ConversionError and ReadError.
    """
    hub_id = HUB_ID.fullmatch(model)
    if hub_id is None:
        raise ValueError(f"{model}: wanted a hub id (org/name or org/name@revision)")
    settings = settings or Settings.from_environment()
    name, revision = hub_id["repository"], hub_id["revision"]
    home = pulled_folder(settings, name)
    folder = home if destination is None else user_path(destination)
    wanted = _record(name, options or PullOptions())
    with _claimed(folder, wanted) as unfinished:
        # An unfinished pull goes on at its own commit, whatever the branch is at now.
        if unfinished is not None and revision is None:
            revision = unfinished.commit
        repository = look_up(name, revision, settings.hub_endpoint or None)
        record = replace(wanted, commit=repository.commit)
        if unfinished is not None and unfinished.commit == record.commit:
            record = unfinished
        run = _Pull(repository, folder, record, progress or PullProgress())
        fetched_nbytes = run.finish()
    if folder.resolve() != home.resolve():
        _link(home, folder)
    return Pulled(folder, name, repository.commit, fetched_nbytes)


def _record(name: str, options: PullOptions) -> PullRecord:
    target = conversion_target(options.bits, options.group_size)
    if target is None:
        return PullRecord(name, "", options.convert)
    return PullRecord(name, "", options.convert, target.bits, target.group_size)


@contextmanager
def _claimed(folder: Path, wanted: PullRecord) -> Iterator[PullRecord | None]:
    """Hold the folder against other processes; gives the record of what an earlier pull began.

    Raises PullError for a folder that is something else.
    """
    staging = folder / STAGING_NAME
    found = read_record(staging) or read_record(folder)
    if found is not None and not wanted.same_kind(found):
        raise PullError(
            f"{folder}: holds {found.description()}, wanted {wanted.description()}: "
            "remove it or choose another folder"
        )
    if found is None and folder.exists():
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
        if names - {STAGING_NAME}:
            raise PullError(
                f"{folder}: wanted a new, empty or unfinished folder, found {min(names)!r} in it"
            )
    try:
        staging.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PullError(f"{folder}: cannot be written: {error.strerror}") from error
    try:
        with exclusive(staging):
            yield read_record(staging)
    except ConversionError as error:
        if staging.exists() and "another process" in str(error):
            raise PullError(f"{folder}: another process is pulling into it") from error
        raise
    finally:
        _remove_unused(folder, staging)


def _remove_unused(folder: Path, staging: Path) -> None:
    """Nothing is left of a pull that has not begun."""
    for path in (staging, folder):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


class _Pull:
    """One call of pull, on a folder that is held against other processes."""

    def __init__(
        self, repository: Repository, folder: Path, record: PullRecord, progress: PullProgress
    ) -> None:
        self._repository = repository
        self._folder = folder
        self._staging = folder / STAGING_NAME
        self._record = record
        self._progress = progress
        self._done_nbytes = 0
        self._kept_nbytes = 0

    def finish(self) -> int:
        """Do what is missing; returns the bytes that were fetched."""
        finished = read_record(self._folder)
        if finished is None or finished.commit != self._record.commit or not self._is_whole():
            self._record.write(self._staging)
            (self._folder / RECORD_NAME).unlink(missing_ok=True)
            if self._record.converted:
                self._convert()
            else:
                self._fetch_all()
            replace(self._record, files={}).write(self._folder)
        shutil.rmtree(self._staging)
        return self._done_nbytes - self._kept_nbytes

    def _is_whole(self) -> bool:
        if self._record.converted:
            return (self._folder / MANIFEST_NAME).is_file()
        return all(_has_size(self._folder / file.name, file) for file in self._repository.files)

    def _fetch_all(self) -> None:
        """Every file to its place; the configuration last, without which there is no checkpoint."""
        files = sorted(self._repository.files, key=lambda file: file.name == CONFIG_NAME)
        self._check_space(self._repository.nbytes)
        for file in files:
            path = self._folder / file.name
            if self._is_there(file, path):
                self._keep(file)
            else:
                self._fetch(file, self._staging / file.name)
                path.parent.mkdir(parents=True, exist_ok=True)
                (self._staging / file.name).replace(path)
            self._record = self._record.with_file(file.name, WHOLE)
            self._record.write(self._staging)

    def _convert(self) -> None:
        """Configuration and tokenizer first, then shard by shard."""
        repository, staging, record = self._repository, self._staging, self._record
        shards = shards_of(repository)
        for file in repository.files:
            if file.name in record.files:
                self._keep(file)
            elif file not in shards:
                self._fetch(file, staging / file.name)
                record = record.with_file(file.name, WHOLE)
                record.write(staging)
        stage_headers(repository, staging)
        target = {"bits": record.bits, "group_size": record.group_size}
        dense_nbytes = Checkpoint.open(staging).dense_nbytes
        # While one shard loses its experts the next may be there already.
        largest = max((file.nbytes for file in shards), default=0)
        self._check_space(converted_nbytes(staging, **target) + dense_nbytes + 2 * largest)
        self._kept_nbytes += sum(
            arrived_nbytes(arriving_path(staging / file.name)) for file in shards
        )
        files = ArrivingFiles(repository, staging, record, self._advance)
        convert(staging, self._folder, **target, progress=self._progress.converted, files=files)

    def _is_there(self, file: RemoteFile, path: Path) -> bool:
        if not _has_size(path, file):
            return False
        return self._record.files.get(file.name) == WHOLE or is_whole(file, path)

    def _keep(self, file: RemoteFile) -> None:
        self._kept_nbytes += file.nbytes
        self._advance(file.name, file.nbytes)

    def _fetch(self, file: RemoteFile, path: Path) -> None:
        self._kept_nbytes += arrived_nbytes(path)
        download(self._repository, file, path, lambda nbytes: self._advance(file.name, nbytes))

    def _check_space(self, nbytes: int) -> None:
        """Of all that is to be in the folder, some of which is there already."""
        wanted = nbytes - used_nbytes(self._folder)
        free = shutil.disk_usage(self._folder).free
        if wanted > free:
            raise PullError(
                f"{self._folder}: the pull needs {format_size(wanted)} more, "
                f"the file system has {format_size(free)} free"
            )

    def _advance(self, name: str, nbytes: int) -> None:
        self._done_nbytes += nbytes
        if self._progress.fetched is not None:
            total = self._repository.nbytes
            self._progress.fetched(Progress(min(self._done_nbytes, total), total, name))


def used_nbytes(folder: Path) -> int:
    """What the files in a folder take on the disk; holes in them take nothing."""
    return sum(512 * path.lstat().st_blocks for path in folder.rglob("*") if path.is_file())


def _has_size(path: Path, file: RemoteFile) -> bool:
    return path.is_file() and path.stat().st_size == file.nbytes


def _link(home: Path, folder: Path) -> None:
    """Let the model be found under its name, unless another one is there."""
    try:
        if home.is_symlink():
            home.unlink()
        if not home.exists():
            home.parent.mkdir(parents=True, exist_ok=True)
            home.symlink_to(folder.resolve(), target_is_directory=True)
    except OSError as error:
        raise PullError(
            f"{folder}: the model is there, but cannot be linked from {home}: {error.strerror}"
        ) from error
