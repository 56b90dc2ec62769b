"""What to generate, and how: the parts of a request, checked where they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from moeflux.engine.constraint import Constraint
from moeflux.engine.sampler import Sampler
from moeflux.engine.stop import StopMatcher


class SamplingOptions(TypedDict, total=False):
    """Keyword arguments of `Model.generate` that become SamplingParams."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int | None
    logit_bias: Mapping[int, float]


class RequestOptions(SamplingOptions, total=False):
    """Keyword arguments of `Model.request`."""

    max_tokens: int
    stop: Sequence[str]
    template: Mapping[str, Any] | None
    logprobs: int | None
    constraint: Constraint | None


@dataclass(frozen=True)
class Limits:
    """A generation ends after `max_tokens`, at an end-of-sequence id, or before a stop string.

    Raises ValueError for `max_tokens` below 1, an empty stop string, and one string in place of
    several.
    """

    max_tokens: int
    eos_token_ids: frozenset[int]
    stop: Sequence[str] = ()

    def __post_init__(self) -> None:
        StopMatcher(self.stop)
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")


@dataclass(frozen=True)
class Request:
    """What to generate, and how tokens are drawn."""

    prompt_ids: Sequence[int]
    sampler: Sampler
    limits: Limits
    logprobs: int | None = None
    """How many of the likeliest tokens each event tells; None: no logarithms at all."""
    constraint: Constraint | None = None
    """What the text has to be."""

    def check(self, vocabulary: int) -> None:
        """Raises ValueError for an empty prompt, and for what a vocabulary does not have."""
        if not self.prompt_ids:
            raise ValueError("the prompt is empty, at least one token is wanted")
        for place, token_id in enumerate(self.prompt_ids):
            if not 0 <= token_id < vocabulary:
                raise ValueError(
                    f"token {place} of the prompt is {token_id}, "
                    f"the vocabulary has ids 0 .. {vocabulary - 1}"
                )
        if self.logprobs is not None and not 0 <= self.logprobs <= vocabulary:
            raise ValueError(f"logprobs must be 0 .. {vocabulary}, got {self.logprobs}")
        for token_id in self.sampler.params.logit_bias:
            if token_id >= vocabulary:
                raise ValueError(
                    f"logit_bias: token id {token_id} is outside the vocabulary of {vocabulary}"
                )
