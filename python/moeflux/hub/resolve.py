"""From what a user calls a model to the folder of its checkpoint. Reads no checkpoint."""

from __future__ import annotations

from importlib import resources
from os import PathLike
from pathlib import Path

import huggingface_hub

from moeflux.errors import CheckpointError
from moeflux.hub.record import STAGING_NAME
from moeflux.hub.repository import HUB_ID, UNWANTED_FILES, WANTED_FILES, reason
from moeflux.settings import Settings, user_path

DEMO = "demo"
"""The name of the model that comes with the package."""


def resolve(model: str | PathLike[str]) -> Path:
    """The folder of `model`: "demo", a folder, or a hub id "org/name" or "org/name@revision".

    A hub id without a revision is what `moeflux pull` has made of it, if anything; else it is
    downloaded, as far as the local cache of huggingface_hub does not hold it. A folder of the name
    demo is written "./demo". Raises CheckpointError if there is no such model.
    """
    name = str(model)
    if name == DEMO:
        return _demo()
    try:
        folder = user_path(name)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if name and folder.is_dir():
        return folder
    if name and folder.exists():
        raise CheckpointError(f"{name}: wanted the folder of a checkpoint, got a file")
    hub_id = HUB_ID.fullmatch(name)
    if hub_id is None:
        raise CheckpointError(f"{name}: no such folder, and not a hub id (org/name) either")
    pulled = pulled_folder(Settings.from_environment(), hub_id["repository"])
    if hub_id["revision"] is None and pulled.is_dir():
        if (pulled / STAGING_NAME).is_dir():
            raise CheckpointError(
                f"{name}: is not whole yet in {pulled}; run `moeflux pull` again to go on"
            )
        return pulled
    return _download(hub_id["repository"], hub_id["revision"])


def pulled_folder(settings: Settings, repository: str) -> Path:
    """Where `moeflux pull` puts a model, or a link to where it was told to put it."""
    return user_path(settings.models_folder) / repository


def _demo() -> Path:
    folder = Path(str(resources.files("moeflux") / DEMO))
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{DEMO}: this installation has no demo model at {folder}")
    return folder


def _download(repository: str, revision: str | None) -> Path:
    endpoint = Settings.from_environment().hub_endpoint or None
    try:
        folder = huggingface_hub.snapshot_download(
            repository,
            revision=revision,
            endpoint=endpoint,
            allow_patterns=[*WANTED_FILES],
            ignore_patterns=[*UNWANTED_FILES],
        )
    except huggingface_hub.errors.LocalEntryNotFoundError as error:
        why = "no such folder, not in the local cache, and the hub cannot be reached"
        raise CheckpointError(f"{repository}: {why}") from error
    except huggingface_hub.errors.GatedRepoError as error:
        raise CheckpointError(f"{repository}: {reason(error, revision)}") from error
    except huggingface_hub.errors.RepositoryNotFoundError as error:
        why = reason(error, revision)
        raise CheckpointError(f"{repository}: no such folder, and {why}") from error
    except huggingface_hub.errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{repository}: {reason(error, revision)}") from error
    except Exception as error:  # besides its own errors those of its HTTP client and of the disk
        raise CheckpointError(f"{repository}: cannot be downloaded: {error}") from error
    return Path(folder)
