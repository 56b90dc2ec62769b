"""What a packed checkpoint takes over besides weights: configuration, tokenizer, licence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from moeflux.checkpoint.checkpoint import Checkpoint
from moeflux.checkpoint.config import CONFIG_NAME, GENERATION_CONFIG_NAME
from moeflux.checkpoint.config_reader import ConfigReader
from moeflux.checkpoint.json_file import unreadable
from moeflux.checkpoint.quantization import SECTIONS, Affine, read_quantization
from moeflux.checkpoint.tokenizer_files import ADDITIONAL_TEMPLATES_NAME

_TAKEN_OVER = (
    GENERATION_CONFIG_NAME,
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.*",
    f"{ADDITIONAL_TEMPLATES_NAME}/*.jinja",
    "README.md",
    "LICENSE*",
    "NOTICE*",
)


def plain_files(
    checkpoint: Checkpoint, quantised: Mapping[str, Affine], target: Affine | None
) -> dict[str, bytes]:
    """Name and content of each file. `quantised`: the dense matrices that are, by packed name.

    config.json is taken over unless its quantisation does not say what the packed weights are.
    Raises CheckpointError for files that cannot be read.
    """
    contents = {
        path.relative_to(checkpoint.path).as_posix(): _read(path)
        for path in _taken_over(checkpoint.path)
    }
    return contents | {CONFIG_NAME: _config(checkpoint, quantised, target)}


def _taken_over(folder: Path) -> Iterator[Path]:
    for pattern in _TAKEN_OVER:
        yield from sorted(path for path in folder.glob(pattern) if path.is_file())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def _config(
    checkpoint: Checkpoint, quantised: Mapping[str, Affine], target: Affine | None
) -> bytes:
    path, values = checkpoint.config.path, dict(checkpoint.config.raw)
    reader = ConfigReader(values, path)
    text = reader.child("text_config") if reader.has("text_config") else reader
    stated = read_quantization(reader, text)
    default = target or stated.default or _most_common(quantised)
    agrees = stated.default == default and all(
        stated.of(name) == affine for name, affine in quantised.items()
    )
    if agrees and path.name == CONFIG_NAME:
        return _read(path)
    for key in SECTIONS:
        values.pop(key, None)
        if text is not reader:
            values["text_config"] = {k: v for k, v in text.values.items() if k not in SECTIONS}
    if default is not None:
        section = {"mode": "affine", **_affine_values(default)} | {
            name: _affine_values(affine)
            for name, affine in sorted(quantised.items())
            if affine != default
        }
        values |= dict.fromkeys(SECTIONS, section)
    return json.dumps(values, indent=2).encode() + b"\n"


def _affine_values(affine: Affine) -> dict[str, object]:
    return {"bits": affine.bits, "group_size": affine.group_size}


def _most_common(quantised: Mapping[str, Affine]) -> Affine | None:
    counts = Counter(quantised.values()).most_common(1)
    return counts[0][0] if counts else None
