"""config.json and generation_config.json. Knows no architecture: models read their own keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moeflux.checkpoint.config_reader import ConfigReader
from moeflux.checkpoint.json_file import read_object
from moeflux.checkpoint.quantization import Quantization, read_quantization

CONFIG_NAME = "config.json"
GENERATION_CONFIG_NAME = "generation_config.json"


@dataclass(frozen=True)
class GenerationConfig:
    """When generation ends and how the checkpoint's authors sample; None where they do not say."""

    eos_token_ids: tuple[int, ...] = ()
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True)
class CheckpointConfig:
    """What is common to the configurations of all architectures.

    `text` reads text_config where config.json wraps a text model in a multimodal one, else the
    whole file. `model_type` is that of the whole file, without "_text".
    """

    path: Path
    raw: Mapping[str, object]
    model_type: str
    text: ConfigReader
    tie_word_embeddings: bool
    quantization: Quantization
    generation: GenerationConfig


def read_config(folder: Path) -> CheckpointConfig:
    """Read the configuration files of a folder.

    Raises CheckpointError for a missing config.json and for values of the wrong type;
    generation_config.json may be missing.
    """
    path = folder / CONFIG_NAME
    return make_config(read_object(path), path)


def make_config(raw: Mapping[str, object], path: Path) -> CheckpointConfig:
    """The configuration `raw`, which stands in the file `path`. Raises as read_config."""
    whole = ConfigReader(raw, path)
    text = whole.child("text_config") if whole.has("text_config") else whole
    tied = whole.boolean("tie_word_embeddings", default=False)
    return CheckpointConfig(
        path=path,
        raw=raw,
        model_type=whole.text("model_type").removesuffix("_text"),
        text=text,
        tie_word_embeddings=text.boolean("tie_word_embeddings", default=tied),
        quantization=read_quantization(whole, text),
        generation=_read_generation(path.with_name(GENERATION_CONFIG_NAME), whole, text),
    )


def _read_generation(path: Path, whole: ConfigReader, text: ConfigReader) -> GenerationConfig:
    reader = ConfigReader(read_object(path) if path.exists() else {}, path)
    return GenerationConfig(
        eos_token_ids=_eos_token_ids(reader, whole, text),
        do_sample=reader.boolean("do_sample") if reader.has("do_sample") else None,
        temperature=_optional_number(reader, "temperature"),
        top_k=reader.integer("top_k", minimum=0) if reader.has("top_k") else None,
        top_p=_optional_number(reader, "top_p"),
        min_p=_optional_number(reader, "min_p"),
        repetition_penalty=_optional_number(reader, "repetition_penalty"),
    )


def _optional_number(reader: ConfigReader, key: str) -> float | None:
    return reader.number(key) if reader.has(key) else None


def _eos_token_ids(*readers: ConfigReader) -> tuple[int, ...]:
    """The end-of-text tokens that the first reader with any names; one or a list."""
    key = "eos_token_id"
    for reader in readers:
        if reader.has(key):
            if isinstance(reader.values[key], list):
                return reader.integers(key)
            return (reader.integer(key, minimum=0),)
    return ()
