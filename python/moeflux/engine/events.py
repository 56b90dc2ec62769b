"""What a generation tells: how far its prompt is, its tokens as they come, and why it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moeflux.engine.receipt import GenerationStats
from moeflux.engine.sampler import Logits, largest_of, log_probabilities

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class PrefillProgress:
    """The prompt is prefilled up to `n_done` of `n_tokens`; its first `n_cached` were stored."""

    n_done: int
    n_cached: int
    n_tokens: int


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural logarithms of probabilities, of a token that was chosen and of the likeliest.

    They are of the model's own distribution: before bias, penalties, temperature, filters and
    constraint.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]
    """(token id, logarithm), best first; equals in the order of their ids."""

    @classmethod
    def of(cls, logits: Logits, token_id: int, n_top: int) -> TokenLogprobs:
        """Of `token_id` and the `n_top` likeliest, from logits [V]. Raises LogitsError."""
        log = log_probabilities(logits)
        return cls(float(log[token_id]), tuple(largest_of(log, n_top)))


@dataclass(frozen=True)
class Event:
    """One generated token; its text may be empty while a character or a stop string is incomplete.

    Only the last event of a generation has `finish_reason` and `stats`: "stop" at an
    end-of-sequence id, at a stop string, which `stop_text` then is, or where a constraint allows
    nothing more; "length" at the last token that was asked for or that the context holds.
    `logprobs` are there where they were asked for.
    """

    text: str
    token_id: int
    finish_reason: FinishReason | None = None
    stats: GenerationStats | None = None
    logprobs: TokenLogprobs | None = None
    stop_text: str | None = None
