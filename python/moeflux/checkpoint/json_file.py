"""JSON objects from files that may be damaged or hostile. Knows JSON, no key of it."""

from __future__ import annotations

import json
from pathlib import Path

from moeflux.errors import CheckpointError

MAX_NBYTES = 100_000_000
"""The longest JSON text that is parsed; the safetensors reference sets this limit for headers."""


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """The CheckpointError for a file that the system does not let us read."""
    return CheckpointError(f"{path}: cannot be read: {error.strerror or error}")


def parse_object(text: bytes, source: str) -> dict[str, object]:
    """The JSON object in `text`, UTF-8. `source` names the text in errors.

    Raises CheckpointError for anything else, and for an object that has a key twice.
    """

    def without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
        values: dict[str, object] = {}
        for key, value in pairs:
            if key in values:
                raise CheckpointError(f"{source}: key {key!r} appears twice in one object")
            values[key] = value
        return values

    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{source}: wanted a JSON object, got invalid JSON: {error}"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{source}: wanted a JSON object, got {type(value).__name__}")
    return value


def read_object(path: Path) -> dict[str, object]:
    """The JSON object in the file. Raises CheckpointError, also for a missing or oversized file."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_NBYTES + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(text) > MAX_NBYTES:
        raise CheckpointError(f"{path}: wanted at most {MAX_NBYTES} bytes of JSON, got more")
    return parse_object(text, str(path))
