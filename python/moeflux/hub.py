"""From what a user calls a model to the folder of its checkpoint. Reads no checkpoint."""

from __future__ import annotations

import re
from importlib import resources
from os import PathLike
from pathlib import Path

import huggingface_hub

from moeflux.errors import CheckpointError

DEMO = "demo"
"""The name of the model that comes with the package."""

_HUB_ID = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")
_WANTED_FILES = ["*.json", "*.jinja", "*.safetensors"]
# Copies of the weights in other layouts.
_UNWANTED_FILES = ["*/*.json", "*/*.safetensors", "consolidated*"]


def resolve(model: str | PathLike[str]) -> Path:
    """The folder of `model`: "demo", a folder, or a hub id "org/name" or "org/name@revision".

    A hub id is downloaded, as far as the local cache of huggingface_hub does not hold it. A folder
    of the name demo is written "./demo". Raises CheckpointError if there is no such model.
    """
    name = str(model)
    if name == DEMO:
        return _demo()
    try:
        folder = Path(name).expanduser()
    except RuntimeError as error:
        raise CheckpointError(f"{name}: {error}") from error
    if name and folder.is_dir():
        return folder
    if name and folder.exists():
        raise CheckpointError(f"{name}: wanted the folder of a checkpoint, got a file")
    hub_id = _HUB_ID.fullmatch(name)
    if hub_id is None:
        raise CheckpointError(f"{name}: no such folder, and not a hub id (org/name) either")
    return _download(hub_id["repository"], hub_id["revision"])


def _demo() -> Path:
    folder = Path(str(resources.files("moeflux") / DEMO))
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{DEMO}: this installation has no demo model at {folder}")
    return folder


def _download(repository: str, revision: str | None) -> Path:
    try:
        folder = huggingface_hub.snapshot_download(
            repository,
            revision=revision,
            allow_patterns=_WANTED_FILES,
            ignore_patterns=_UNWANTED_FILES,
        )
    except huggingface_hub.errors.GatedRepoError as error:
        reason = "its owner grants access on the hub; ask there, then run `hf auth login`"
        raise CheckpointError(f"{repository}: {reason}") from error
    except huggingface_hub.errors.RepositoryNotFoundError as error:
        reason = "no such folder, and no such model on the hub that you may see"
        raise CheckpointError(f"{repository}: {reason}") from error
    except huggingface_hub.errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{repository}: no revision {revision!r} on the hub") from error
    except huggingface_hub.errors.LocalEntryNotFoundError as error:
        reason = "no such folder, not in the local cache, and the hub cannot be reached"
        raise CheckpointError(f"{repository}: {reason}") from error
    except Exception as error:  # besides its own errors those of its HTTP client and of the disk
        raise CheckpointError(f"{repository}: cannot be downloaded: {error}") from error
    return Path(folder)
