"""What a pulled folder says of itself: from where, how much of it is there, what it became."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from moeflux.checkpoint.convert_files import write_file
from moeflux.checkpoint.json_file import read_object
from moeflux.errors import CheckpointError
from moeflux.hub.repository import PullError

RECORD_NAME = "moeflux.pull.json"
"""Of a finished pull; of an unfinished one it lies in the staging folder."""
STAGING_NAME = ".moeflux.pull"
"""The folder in the destination that holds what is not finished."""

WHOLE, DENSE = "whole", "dense"


@dataclass(frozen=True)
class PullRecord:
    """A pull. bits and group_size: what its weights were converted to, None for as they were."""

    repository: str
    commit: str
    converted: bool
    bits: int | None = None
    group_size: int | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    """Of an unfinished pull: WHOLE or, of a shard whose experts are converted, DENSE; by name."""

    def write(self, folder: Path) -> None:
        """Replace the folder's record, durably. Raises ConversionError."""
        write_file(folder / RECORD_NAME, json.dumps(asdict(self), indent=1).encode() + b"\n")

    def with_file(self, name: str, state: str) -> PullRecord:
        """The same with one file in another state."""
        return replace(self, files={**self.files, name: state})

    def same_kind(self, other: PullRecord) -> bool:
        """Whether both make the same of the same model, at whatever commit."""
        return replace(self, commit=other.commit, files=other.files) == other

    def description(self) -> str:
        """For people."""
        if not self.converted:
            return f"{self.repository} as it is on the hub"
        if self.bits is None:
            return f"{self.repository}, experts packed"
        return f"{self.repository}, {self.bits} bits in groups of {self.group_size}"


def read_record(folder: Path) -> PullRecord | None:
    """The record in a folder, None without one. Raises PullError for a damaged one."""
    path = folder / RECORD_NAME
    if not path.is_file():
        return None
    try:
        return PullRecord(**read_object(path))  # type: ignore[arg-type]
    except (CheckpointError, TypeError) as error:
        raise PullError(f"{path}: wanted the record of a pull: {error}") from error
