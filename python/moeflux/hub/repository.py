"""What the hub says of a model: its commit, and name, size and checksum of each file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import huggingface_hub

from moeflux.errors import MoefluxError

HUB_ID = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")
"""org/name or org/name@revision."""
WANTED_FILES = ("*.json", "*.jinja", "*.safetensors")
UNWANTED_FILES = ("*/*.json", "*/*.safetensors", "consolidated*")
"""Copies of the weights in other layouts."""
DOCUMENTS = ("README.md", "LICENSE*", "NOTICE*")
CONFIG_NAME = "config.json"


class PullError(MoefluxError):
    """A model cannot be pulled from the hub. Says what is kept of what was fetched."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on the hub. sha256: of files in LFS. blob_id: Git's SHA-1 of others."""

    name: str
    nbytes: int
    sha256: str | None
    blob_id: str | None


@dataclass(frozen=True)
class Repository:
    """A model at one commit, and those of its files that a checkpoint needs."""

    name: str
    commit: str
    files: tuple[RemoteFile, ...]
    endpoint: str | None

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(file.nbytes for file in self.files)

    def url(self, file: RemoteFile) -> str:
        """Where the file is had at this commit."""
        return huggingface_hub.hf_hub_url(
            self.name, file.name, revision=self.commit, endpoint=self.endpoint
        )

    def headers(self) -> dict[str, str]:
        """Of requests: who asks, with the token that the user has given huggingface_hub."""
        utils: Any = huggingface_hub.utils  # which does not say what it exports
        headers: dict[str, str] = utils.build_hf_headers(library_name="moeflux")
        return headers


def look_up(name: str, revision: str | None, endpoint: str | None) -> Repository:
    """Ask the hub for a model. Raises PullError."""
    try:
        info = huggingface_hub.HfApi(endpoint=endpoint).model_info(
            name, revision=revision, files_metadata=True
        )
    except Exception as error:  # besides its own errors those of its HTTP client
        raise PullError(f"{name}: {reason(error, revision)}") from error
    utils: Any = huggingface_hub.utils  # as above
    siblings = utils.filter_repo_objects(
        info.siblings or (),
        allow_patterns=[*WANTED_FILES, *DOCUMENTS],
        ignore_patterns=[*UNWANTED_FILES],
        key=lambda sibling: sibling.rfilename,
    )
    files = tuple(_file(name, sibling) for sibling in siblings)
    if not info.sha or CONFIG_NAME not in {file.name for file in files}:
        raise PullError(f"{name}: wanted a model with a {CONFIG_NAME}, the hub has none there")
    return Repository(name, info.sha, files, endpoint)


def reason(error: Exception, revision: str | None) -> str:
    """What an error of the hub means for the user."""
    errors = huggingface_hub.errors
    if isinstance(error, errors.GatedRepoError):
        return "its owner grants access on the hub; ask there, then run `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such model on the hub that you may see"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"no revision {revision!r} on the hub"
    if isinstance(error, errors.HfHubHTTPError):
        return f"the hub answers: {error}"
    return f"the hub cannot be reached: {error}"


def _file(repository: str, sibling: huggingface_hub.hf_api.RepoSibling) -> RemoteFile:
    path = PurePosixPath(sibling.rfilename)
    if path.is_absolute() or ".." in path.parts or "\\" in sibling.rfilename:
        raise PullError(f"{repository}: wanted file names inside a folder, got {str(path)!r}")
    if sibling.size is None:
        raise PullError(f"{repository}: the hub does not tell the size of {sibling.rfilename}")
    sha256 = None if sibling.lfs is None else sibling.lfs.sha256
    return RemoteFile(sibling.rfilename, sibling.size, sha256, sibling.blob_id)
