"""Models that are on this disk: those that were pulled and those of the hub's own folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub

from moeflux.checkpoint.packed_manifest import JOURNAL_NAME, MANIFEST_NAME
from moeflux.errors import MoefluxError
from moeflux.hub.pull import used_nbytes
from moeflux.hub.record import RECORD_NAME, STAGING_NAME
from moeflux.hub.repository import HUB_ID
from moeflux.hub.resolve import DEMO, pulled_folder
from moeflux.settings import Settings, user_path

_OURS = (RECORD_NAME, STAGING_NAME, MANIFEST_NAME, JOURNAL_NAME)
"""What only a pull or a conversion leaves in a folder."""


class RemovalError(MoefluxError):
    """What is to be removed is no model that moeflux or the hub has put there."""


@dataclass(frozen=True)
class StoredModel:
    """A model on this disk. nbytes: what it takes there."""

    name: str
    path: Path
    nbytes: int
    pulled: bool
    """By `moeflux pull`; else it is in the hub's folder."""
    finished: bool


@dataclass(frozen=True)
class Removal:
    """What would be removed, and the bytes that would be free then."""

    name: str
    path: Path
    nbytes: int
    run: Callable[[], None]
    """Does it. Raises OSError."""


def stored_models(settings: Settings) -> list[StoredModel]:
    """Pulled ones first, each kind by name."""
    return [*sorted(_pulled(settings), key=_name), *sorted(_of_the_hub(), key=_name)]


def find_removal(model: str, settings: Settings) -> Removal:
    """What removing "org/name" or a folder means; of a name, what it stands for in other commands.

    Raises RemovalError for what is not there, or is nothing that moeflux or the hub has made,
    ValueError for the home of nobody.
    """
    if model == DEMO:
        raise RemovalError(f"{DEMO}: comes with the package and stays with it")
    folder = user_path(model)
    if model and folder.is_dir():
        return _folder_removal(model, folder, settings)
    hub_id = HUB_ID.fullmatch(model)
    if hub_id is None:
        raise RemovalError(f"{model}: no such folder, and not a hub id (org/name) either")
    home = pulled_folder(settings, hub_id["repository"])
    if home.is_symlink() or home.is_dir():
        return _folder_removal(model, home, settings)
    found = _hub_folder()
    for repository in _models_in(found):
        if found is not None and repository.repo_id == hub_id["repository"]:
            commits = [revision.commit_hash for revision in repository.revisions]
            strategy = found.delete_revisions(*commits)
            nbytes = strategy.expected_freed_size
            return Removal(model, Path(repository.repo_path), nbytes, strategy.execute)
    raise RemovalError(f"{model}: neither pulled nor in the hub's folder")


def _folder_removal(model: str, folder: Path, settings: Settings) -> Removal:
    target = folder.resolve()
    if target.is_dir() and not any((target / name).exists() for name in _OURS):
        raise RemovalError(
            f"{model}: {target} has not been made by `moeflux pull` or `moeflux convert`: "
            "remove it yourself if it is to go"
        )

    names = user_path(settings.models_folder).glob("*/*")
    links = [path for path in names if path.is_symlink() and path.resolve() == target]

    def remove() -> None:
        if target.is_dir():
            shutil.rmtree(target)
        for link in links:
            link.unlink()

    return Removal(model, target, used_nbytes(target) if target.is_dir() else 0, remove)


def _pulled(settings: Settings) -> Iterator[StoredModel]:
    root = user_path(settings.models_folder)
    for path in root.glob("*/*"):
        if path.is_dir():
            finished = (path / RECORD_NAME).is_file() and not (path / STAGING_NAME).exists()
            name = path.relative_to(root).as_posix()
            target = path.resolve()
            yield StoredModel(name, target, used_nbytes(target), pulled=True, finished=finished)


def _of_the_hub() -> Iterator[StoredModel]:
    for repository in _models_in(_hub_folder()):
        newest = max(
            repository.revisions, key=lambda found: ("main" in found.refs, found.last_modified)
        )
        yield StoredModel(
            repository.repo_id,
            Path(newest.snapshot_path),
            repository.size_on_disk,
            pulled=False,
            finished=True,
        )


def _hub_folder() -> huggingface_hub.HFCacheInfo | None:
    """What is in the hub's folder, None without one."""
    try:
        return huggingface_hub.scan_cache_dir(huggingface_hub.constants.HF_HUB_CACHE)
    except huggingface_hub.errors.CacheNotFound:
        return None


def _models_in(folder: huggingface_hub.HFCacheInfo | None) -> list[huggingface_hub.CachedRepoInfo]:
    """Models with at least one revision."""
    found = () if folder is None else folder.repos
    return [each for each in found if each.repo_type == "model" and each.revisions]


def _name(model: StoredModel) -> str:
    return model.name
