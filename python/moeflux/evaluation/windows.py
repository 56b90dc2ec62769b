"""A text in windows of tokens, and a model's logits over them, a bounded piece at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeflux.blocks.workspace import Float32Array
from moeflux.engine.model import Model

Float64Array = NDArray[np.float64]
Progress = Callable[[int, int, float | None], None]
"""Is told of tokens done, of how many, and of the mean so far where there is one."""

DEFAULT_WINDOW = 2048
PIECE_NBYTES = 64 * 2**20
"""Of logits at a time, where that is a block of tokens or more."""
BLOCK = 64
"""Tokens; pieces that break at multiples of it have the bits of a whole prompt."""
ROWS = 16
"""Of logits that are turned into probabilities at a time, which bounds the temporaries."""


@dataclass(frozen=True)
class Windows:
    """Every token of a text scored once, with as many tokens before it as its window has.

    A window is `size` tokens that a model goes through, each of which predicts the next one, and
    begins `stride` behind the one before. The first token of the text is scored only where the
    tokenizer puts a beginning of sequence in front, which every window gets then.
    """

    tokens: tuple[int, ...]
    first: tuple[int, ...]
    """What every window begins with: the beginning of a sequence, or nothing."""
    size: int
    stride: int

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.size:
            raise ValueError(
                f"stride must be 1 .. {self.size} for windows of {self.size} tokens, "
                f"got {self.stride}"
            )
        if self.n_scored < 1:
            raise ValueError(f"the text has {len(self.tokens)} tokens, of which none can be scored")

    @property
    def n_scored(self) -> int:
        """Tokens whose probability is asked for."""
        return len(self.tokens) - (0 if self.first else 1)

    def spans(self) -> Iterator[tuple[int, int, int]]:
        """Of each window in the text: its begin, its first scored token, the end of those.

        The last token that is scored is predicted, and not gone through.
        """
        room = self.size - len(self.first) + 1
        scored = 0 if self.first else 1
        begin = 0
        while scored < len(self.tokens):
            end = min(begin + room, len(self.tokens))
            yield begin, scored, end
            scored = end
            begin += self.stride


@dataclass(frozen=True)
class Piece:
    """Logits float32 [T, V] from which T tokens, the `targets` [T], are predicted."""

    logits: Float32Array
    targets: NDArray[np.int64]


def windows_of(
    model: Model, text: str, size: int | None = None, stride: int | None = None
) -> Windows:
    """The windows of a text.

    size: tokens, as many as the model's context allows up to DEFAULT_WINDOW if not given. stride: a
    window's size if not given. Raises ValueError for sizes that do not fit, and CheckpointError
    without a tokenizer.
    """
    tokenizer = model.tokenizer
    size = size or min(DEFAULT_WINDOW, model.context_size)
    bos = tokenizer.bos_token_id
    first = () if bos is None else (bos,)
    return Windows(tuple(tokenizer.encode(text)), first, size, stride or size)


def piece_tokens(vocabulary: int) -> int:
    """Tokens whose logits are had at a time: whole blocks."""
    return max(1, PIECE_NBYTES // (4 * vocabulary * BLOCK)) * BLOCK


def piece_nbytes(vocabulary: int) -> int:
    """Bytes of the logits that are had at a time, and of what is computed from them."""
    return 4 * vocabulary * (piece_tokens(vocabulary) + 8 * ROWS)


def pieces(model: Model, windows: Windows) -> Iterator[Piece]:
    """Logits of the scored tokens of all windows, in order. Raises as Session.prefill does."""
    session = model.session(windows.size)
    n_tokens = piece_tokens(model.config.vocab_size)
    for begin, scored, end in windows.spans():
        session.reset()
        inputs = (*windows.first, *windows.tokens[begin : end - 1])
        n_context = len(inputs) - (end - scored)
        whole_blocks = n_context // BLOCK * BLOCK
        if whole_blocks:
            session.prefill(inputs[:whole_blocks])
        for start in range(whole_blocks, len(inputs), n_tokens):
            skipped = max(0, n_context - start)
            rows = inputs[start : start + n_tokens]
            logits = session.prefill_all_logits(rows)[skipped:]
            target = end - (len(inputs) - start - skipped)
            wanted = windows.tokens[target : target + len(logits)]
            yield Piece(logits, np.array(wanted, np.int64))


def log_probabilities(logits: Float32Array) -> Float64Array:
    """Natural logarithms of softmax over the last axis, float64 [T, V]."""
    values = logits.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return values


def blocks(n_rows: int) -> Iterator[slice]:
    """Slices of ROWS rows that make up `n_rows`."""
    return (slice(first, min(first + ROWS, n_rows)) for first in range(0, n_rows, ROWS))


def mean_and_error(values: Sequence[float] | Float64Array) -> tuple[float, float]:
    """The mean and its standard error, the values taken as independent; 0 for a single value."""
    array = np.asarray(values, np.float64)
    error = array.std(ddof=1) / np.sqrt(array.size) if array.size > 1 else 0.0
    return float(array.mean()), float(error)
