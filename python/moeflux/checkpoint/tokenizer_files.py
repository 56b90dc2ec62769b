"""What the tokenizer files of a checkpoint say, besides tokenizer.json itself. Encodes no text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moeflux.checkpoint.config import CONFIG_NAME, read_config
from moeflux.checkpoint.json_file import read_object, unreadable
from moeflux.errors import CheckpointError

TOKENIZER_NAME = "tokenizer.json"
TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
SPECIAL_TOKENS_MAP_NAME = "special_tokens_map.json"
CHAT_TEMPLATE_NAME = "chat_template.jinja"
ADDITIONAL_TEMPLATES_NAME = "additional_chat_templates"


@dataclass(frozen=True)
class TokenizerFiles:
    """The settings around a tokenizer.json.

    named_tokens: role to text, such as "eos_token" to "<|im_end|>".
    added_tokens: the fields of each token that tokenizer_config.json lists, by id, in its order.
    chat_templates: name to source.
    add_bos: whether a raw prompt starts with the bos_token; None where the files do not say.
    """

    path: Path
    named_tokens: Mapping[str, str]
    added_tokens: Mapping[int, Mapping[str, object]]
    chat_templates: Mapping[str, str]
    eos_token_ids: tuple[int, ...]
    add_bos: bool | None


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Read the folder's files; all but tokenizer.json may be missing.

    Raises CheckpointError for a missing tokenizer.json and for damaged files.
    """
    path = folder / TOKENIZER_NAME
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {TOKENIZER_NAME}")
    config_path = folder / TOKENIZER_CONFIG_NAME
    config = _read_optional(config_path)
    names = _read_optional(folder / SPECIAL_TOKENS_MAP_NAME) | config
    add_bos = config.get("add_bos_token")
    has_config = (folder / CONFIG_NAME).exists()
    return TokenizerFiles(
        path=path,
        named_tokens=_named_tokens(names),
        added_tokens=_added_tokens(config_path, config.get("added_tokens_decoder")),
        chat_templates=_listed_templates(config_path, config.get("chat_template"))
        | _template_files(folder),
        eos_token_ids=read_config(folder).generation.eos_token_ids if has_config else (),
        add_bos=add_bos if isinstance(add_bos, bool) else None,
    )


def _read_optional(path: Path) -> dict[str, object]:
    return read_object(path) if path.exists() else {}


def _named_tokens(config: Mapping[str, object]) -> dict[str, str]:
    """The entries "..._token" whose value is a text or an object with its "content"."""
    named = {}
    for name, value in config.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            named[name] = text
    return named


def _added_tokens(path: Path, listed: object) -> dict[int, dict[str, object]]:
    """The entries of added_tokens_decoder in the order of their ids."""
    if listed is None:
        return {}
    if not isinstance(listed, dict):
        raise CheckpointError(f"{path}: added_tokens_decoder: wanted an object, got {listed!r}")
    tokens: dict[int, dict[str, object]] = {}
    for token_id, fields in listed.items():
        if not (token_id.isdecimal() and isinstance(fields, dict) and "content" in fields):
            raise CheckpointError(
                f"{path}: added_tokens_decoder: wanted a token, got {token_id!r}: {fields!r}"
            )
        tokens[int(token_id)] = fields
    return dict(sorted(tokens.items()))


def _listed_templates(path: Path, value: object) -> dict[str, str]:
    """chat_template of tokenizer_config.json: one source, or a list of named ones."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    templates: dict[str, str] = {}
    for entry in value if isinstance(value, list) else [value]:
        name, source = (
            (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
        )
        if not (isinstance(name, str) and isinstance(source, str)):
            raise CheckpointError(
                f"{path}: chat_template: wanted a text or named templates, got {entry!r}"
            )
        templates[name] = source
    return templates


def _template_files(folder: Path) -> dict[str, str]:
    """Templates in files of their own, which win over those of tokenizer_config.json."""
    paths = {
        path.stem: path for path in sorted((folder / ADDITIONAL_TEMPLATES_NAME).glob("*.jinja"))
    }
    default = folder / CHAT_TEMPLATE_NAME
    if default.exists():
        paths["default"] = default
    templates: dict[str, str] = {}
    for name, path in paths.items():
        try:
            templates[name] = path.read_text(encoding="utf-8")
        except OSError as error:
            raise unreadable(path, error) from error
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{path}: wanted UTF-8 text: {error}") from error
    return templates
