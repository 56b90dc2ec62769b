"""Whether the tokens of two checkpoints mean the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moeflux.engine.inspection import inspect_checkpoint
from moeflux.engine.model import Model
from moeflux.errors import MoefluxError
from moeflux.tokenizer import Tokenizer


class DifferentVocabularyError(MoefluxError, ValueError):
    """Two checkpoints whose tokens do not mean the same."""


@dataclass(frozen=True)
class Vocabulary:
    """What the tokens of a checkpoint mean, and of how many it gives logits."""

    name: str
    tokenizer: Tokenizer
    n_logits: int

    @classmethod
    def of(cls, model: Model) -> Vocabulary:
        return cls(str(model.path), model.tokenizer, model.config.vocab_size)

    @classmethod
    def of_folder(cls, folder: Path) -> Vocabulary:
        vocab_size = inspect_checkpoint(folder).vocab_size
        return cls(str(folder), Tokenizer.from_folder(folder), vocab_size)


def check_same_vocabulary(first: Vocabulary, second: Vocabulary, text: str) -> None:
    """Raises DifferentVocabularyError unless both give the text and their logits one meaning."""
    names = f"{first.name} and {second.name}"
    if first.n_logits != second.n_logits:
        raise DifferentVocabularyError(
            f"{names}: wanted two checkpoints of one model, got vocabularies of "
            f"{first.n_logits} and {second.n_logits} tokens"
        )
    mine, theirs = first.tokenizer.vocabulary(), second.tokenizer.vocabulary()
    if mine != theirs:
        token = min(token for token, _ in mine.items() ^ theirs.items())
        raise DifferentVocabularyError(
            f"{names}: wanted the same vocabulary, got token {token!r} with the ids "
            f"{mine.get(token, 'none')} and {theirs.get(token, 'none')}"
        )
    if first.tokenizer.encode(text) != second.tokenizer.encode(text):
        raise DifferentVocabularyError(f"{names}: their tokenizers cut the text differently")
