"""How well a model predicts a text."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from moeflux.engine.model import Model
from moeflux.evaluation.windows import (
    Float64Array,
    Piece,
    Progress,
    Windows,
    blocks,
    log_probabilities,
    mean_and_error,
    pieces,
    windows_of,
)


@dataclass(frozen=True)
class Perplexity:
    """Of a text under a model: the mean of -log p(token | tokens before it in its window)."""

    nats_per_token: float
    standard_error: float
    """Of nats_per_token, tokens taken as independent."""
    n_tokens: int
    """Scored ones."""
    n_bytes: int
    """UTF-8 bytes that the scored tokens stand for."""
    window_size: int
    stride: int

    @property
    def perplexity(self) -> float:
        """exp(nats_per_token)."""
        return math.exp(self.nats_per_token)

    @property
    def perplexity_error(self) -> float:
        """Standard error of the perplexity, to first order."""
        return self.perplexity * self.standard_error

    @property
    def bits_per_byte(self) -> float:
        """The text's information content over its size, comparable between tokenizers."""
        return self.nats_per_token * self.n_tokens / (math.log(2) * self.n_bytes)

    def as_dict(self) -> dict[str, Any]:
        """Fields and derived values, for JSON."""
        derived = ("perplexity", "perplexity_error", "bits_per_byte")
        return asdict(self) | {name: getattr(self, name) for name in derived}


def perplexity(
    model: Model,
    text: str,
    *,
    window_size: int | None = None,
    stride: int | None = None,
    progress: Progress | None = None,
) -> Perplexity:
    """Score every token of `text` once.

    window_size: tokens that the model sees at once, at most 2048 if not given. stride: tokens from
    one window to the next; a window's size if not given, less for more context at more cost.
    Raises ValueError for a text without tokens to score or sizes that do not fit, CheckpointError
    without a tokenizer, and as Session.prefill does.
    """
    windows = windows_of(model, text, window_size, stride)
    nats = np.empty(windows.n_scored)
    n_scored = 0
    for piece in pieces(model, windows):
        nats[n_scored : n_scored + len(piece.targets)] = surprisals(piece)
        n_scored += len(piece.targets)
        if progress is not None:
            progress(n_scored, windows.n_scored, float(nats[:n_scored].mean()))
    mean, error = mean_and_error(nats)
    n_bytes = _n_bytes(model, windows)
    return Perplexity(mean, error, n_scored, n_bytes, windows.size, windows.stride)


def surprisals(piece: Piece) -> Float64Array:
    """-log p of each target, float64 [T]."""
    nats = np.empty(len(piece.targets))
    for rows in blocks(len(nats)):
        logs = log_probabilities(piece.logits[rows])
        nats[rows] = -np.take_along_axis(logs, piece.targets[rows, None], axis=1)[:, 0]
    return nats


def _n_bytes(model: Model, windows: Windows) -> int:
    scored = windows.tokens[len(windows.tokens) - windows.n_scored :]
    return sum(len(model.tokenizer.token_bytes(token)) for token in scored)
