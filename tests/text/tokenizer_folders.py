"""Tokenizer folders of the kinds that checkpoints have, small and made on the spot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

TEMPLATES = Path(__file__).parent / "templates"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "[/INST]")
UNMARKED = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>")
VOCABULARY = ("<b>", "    ")
"""Added tokens that are ordinary text: no template writes them, or they are blank."""

TEXT = """The quick brown fox jumps over the lazy dog. def read_lines(path): return open(path)
Größe, naïve, 東京は日本の首都です。 Ελληνικά, кириллица, 😀😃👍🏽 and
<html> <|x|> a < b && c > d [1, 2, 3]
"""


def write_folder(
    folder: Path,
    tokenizer_json: str,
    *,
    template: str | None = None,
    config: Mapping[str, object] | None = None,
) -> Path:
    """Write tokenizer.json and tokenizer_config.json; `template` names a file in templates/."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    settings: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "<|im_end|>",
        "pad_token": {"__type": "AddedToken", "content": "<|endoftext|>", "special": True},
        "add_bos_token": False,
        **(config or {}),
    }
    if template is not None:
        settings["chat_template"] = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@cache
def byte_level() -> str:
    """tokenizer.json of a byte-level BPE with control tokens, the kind that Qwen has."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    )
    tokenizer.add_tokens(
        [AddedToken(token, special=False, normalized=False) for token in (*UNMARKED, *VOCABULARY)]
    )
    return str(tokenizer.to_str())


@cache
def sentencepiece() -> str:
    """tokenizer.json of a BPE with byte fallback and U+2581 for spaces, as Mixtral has."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [
        "\u2581",
        *"abcdefghijklmnopqrstuvwxyz.<>/|_",
        "\u2581a",
        "he",
        "\u2581he",
        "ll",
        "hell",
    ]
    tokens += ["hello", "\u2581hello"]
    merges = [("\u2581", "a"), ("h", "e"), ("\u2581", "he"), ("l", "l"), ("he", "ll")]
    merges += [("hell", "o"), ("\u2581", "hello")]
    model = models.BPE(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return str(tokenizer.to_str())


@cache
def unigram() -> str:
    """tokenizer.json of a Unigram model whose pieces include its control tokens."""
    pieces = [("<unk>", 0.0), ("<s>", -0.1), ("</s>", -0.1)]
    pieces += [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    pieces += [(character, -5.0) for character in "\u2581<>/s|abc"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return str(tokenizer.to_str())
