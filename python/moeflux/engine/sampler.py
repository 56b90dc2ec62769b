"""Choosing a token from logits. Knows no model and no text.

Order: logit_bias, repetition penalty, presence and frequency penalty, what a constraint allows,
temperature, top_k, top_p, min_p; each filter works on what the one before left, renormalised.
Logits stay float32 up to the temperature, probabilities are float64. A token costs one random
number, none at temperature 0.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from moeflux.errors import LogitsError

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen. Raises ValueError naming the field that is out of range.

    temperature: 0 takes the most probable token, the lowest id where several are.
    top_k: keep this many of the most probable tokens, lower ids first among equals; 0 keeps all.
    top_p: keep the fewest of the most probable tokens that together reach this probability.
    min_p: keep tokens at least this fraction as probable as the most probable one.
    repetition_penalty: of tokens in prompt or answer, divides positive and multiplies negative
        logits (CTRL, arXiv 1909.05858, section 4.1).
    presence_penalty, frequency_penalty: subtracted from the logits of tokens in the answer, once
        and once per occurrence.
    seed: of PCG64; None draws one from the system.
    logit_bias: added to the logits of these token ids.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, self.temperature >= 0, "0 or more")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "above 0, at most 1")
        whole = isinstance(self.top_k, int)
        _check("top_k", self.top_k, whole and self.top_k >= 0, "0 (all) or a whole number above")
        _check("min_p", self.min_p, 0 <= self.min_p <= 1, "0 .. 1")
        repetition = self.repetition_penalty
        _check("repetition_penalty", repetition, repetition > 0, "above 0")
        _check("presence_penalty", self.presence_penalty)
        _check("frequency_penalty", self.frequency_penalty)
        if self.seed is not None:
            whole = isinstance(self.seed, int)
            _check("seed", self.seed, whole and self.seed >= 0, "a whole number of 0 or more")
        for token_id, bias in self.logit_bias.items():
            _check("logit_bias", token_id, token_id >= 0, "token ids of 0 or more")
            _check("logit_bias", bias)
        object.__setattr__(self, "logit_bias", MappingProxyType(dict(self.logit_bias)))


class TokenHistory:
    """How often each token occurred: in the prompt, and in the answer as it grows."""

    def __init__(self, prompt_ids: Iterable[int] = ()) -> None:
        self._seen = dict.fromkeys(prompt_ids)
        self._generated: dict[int, int] = {}

    def append(self, token_id: int) -> None:
        """Count a token of the answer."""
        self._seen[token_id] = None
        self._generated[token_id] = self._generated.get(token_id, 0) + 1

    def seen(self) -> NDArray[np.int64]:
        """Distinct ids of prompt and answer."""
        return np.fromiter(self._seen, np.int64, len(self._seen))

    def generated(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Distinct ids of the answer and how often each occurred."""
        n = len(self._generated)
        counts = np.fromiter(self._generated.values(), np.float32, n)
        return np.fromiter(self._generated, np.int64, n), counts


class Sampler:
    """Draws tokens. Same parameters with a seed, same logits: same tokens."""

    def __init__(self, params: SamplingParams) -> None:
        self.params = params
        self.seed = secrets.randbits(63) if params.seed is None else params.seed
        """The seed in use."""
        self._random = np.random.Generator(np.random.PCG64(self.seed))

    def sample(
        self, logits: Logits, history: TokenHistory, allowed: NDArray[np.bool_] | None = None
    ) -> int:
        """Choose the token that follows, from logits [V], left as they are.

        allowed: the tokens to choose from, [V]; None means all.
        Raises LogitsError for logits that are not finite and where no token is allowed, ValueError
        for ids beyond V in logit_bias or history.
        """
        token_ids, logits = self._candidates(logits, history, allowed)
        if self.params.temperature == 0:
            return int(token_ids[logits.argmax()])
        kept, probabilities = self._distribution(logits)
        token_ids = token_ids[kept]
        cumulative = probabilities.cumsum()
        drawn = cumulative.searchsorted(self._random.random() * cumulative[-1], side="right")
        # Rounding may carry the draw to the very end, past the last token.
        return int(token_ids[min(drawn, len(token_ids) - 1)])

    def probabilities(
        self, logits: Logits, history: TokenHistory, allowed: NDArray[np.bool_] | None = None
    ) -> dict[int, float]:
        """The distribution that sample draws from: id to probability, without those left out."""
        token_ids, logits = self._candidates(logits, history, allowed)
        if self.params.temperature == 0:
            return {int(token_ids[logits.argmax()]): 1.0}
        kept, weights = self._distribution(logits)
        shares = (weights / weights.sum()).tolist()
        return dict(zip(token_ids[kept].tolist(), shares, strict=True))

    def _candidates(
        self, logits: Logits, history: TokenHistory, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.int64], Logits]:
        """Ids to choose from, ascending, and their logits after bias and penalties."""
        logits = self._penalised(_finite(logits), history)
        if allowed is None:
            return np.arange(len(logits)), logits
        token_ids = np.flatnonzero(allowed)
        if not len(token_ids):
            raise LogitsError(f"none of {len(logits)} tokens is allowed by the constraint")
        return token_ids, logits[token_ids]

    def _penalised(self, logits: Logits, history: TokenHistory) -> Logits:
        params = self.params
        penalises_generated = params.presence_penalty != 0 or params.frequency_penalty != 0
        if not (params.logit_bias or params.repetition_penalty != 1 or penalises_generated):
            return logits
        logits = logits.copy()
        with np.errstate(over="ignore", invalid="ignore"):  # the result is checked instead
            if params.logit_bias:
                biased = np.fromiter(params.logit_bias, np.int64)
                biases = np.array([*params.logit_bias.values()], np.float32)
                logits[_within(biased, logits)] += biases
            if params.repetition_penalty != 1:
                seen = _within(history.seen(), logits)
                penalty, old = np.float32(params.repetition_penalty), logits[seen]
                logits[seen] = np.where(old > 0, old / penalty, old * penalty)
            if penalises_generated:
                generated, counts = history.generated()
                loss = params.presence_penalty + params.frequency_penalty * counts
                logits[_within(generated, logits)] -= loss.astype(np.float32)
        return _finite(logits)

    def _distribution(self, logits: Logits) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Indices that the filters leave and their weights: probabilities up to one factor."""
        params = self.params
        token_ids = np.arange(len(logits))
        if 0 < params.top_k < len(logits):
            token_ids = _largest(logits, params.top_k)
        with np.errstate(over="ignore"):  # a tiny temperature: the others get the weight 0
            scaled = (logits[token_ids].astype(np.float64) - logits.max()) / params.temperature
        weights = np.exp(scaled)
        if params.top_p < 1:
            kept = _nucleus(weights, params.top_p)
            token_ids, weights = token_ids[kept], weights[kept]
        if params.min_p > 0:
            kept = weights >= params.min_p * weights.max()
            token_ids, weights = token_ids[kept], weights[kept]
        return token_ids, weights


def log_probabilities(logits: Logits) -> NDArray[np.float64]:
    """Natural logarithms [V] of the model's own distribution. Raises LogitsError."""
    shifted = _finite(logits).astype(np.float64)
    shifted -= shifted.max()
    shifted -= np.log(np.exp(shifted).sum())
    return shifted


def top_log_probabilities(logits: Logits, n: int) -> list[tuple[int, float]]:
    """The n most probable tokens of the model's own distribution, best first: (id, logarithm).

    Equals come in the order of their ids. Raises LogitsError; ValueError for n outside 0 .. V.
    """
    return largest_of(log_probabilities(logits), n)


def largest_of(log: NDArray[np.float64], n: int) -> list[tuple[int, float]]:
    """The n largest of logarithms [V], as top_log_probabilities gives them."""
    if not 0 <= n <= len(log):
        raise ValueError(f"n must be 0 .. {len(log)}, got {n}")
    best = _largest(log, n) if n else np.arange(0)
    best = best[np.argsort(-log[best], kind="stable")]
    return [(int(token_id), float(log[token_id])) for token_id in best]


def _check(name: str, value: float, condition: bool = True, wanted: str = "finite") -> None:
    if not (condition and math.isfinite(value)):
        raise ValueError(f"{name} must be {wanted}, got {value}")


def _finite(logits: Logits) -> Logits:
    if logits.ndim != 1 or not len(logits):
        raise LogitsError(f"logits must be a vector [V], got shape {list(logits.shape)}")
    finite = np.isfinite(logits)
    if not finite.all():
        first = int(finite.argmin())
        raise LogitsError(
            f"{len(logits) - np.count_nonzero(finite)} of {len(logits)} logits are not finite, "
            f"the first is {logits[first]} of token {first}"
        )
    return logits


def _within(token_ids: NDArray[np.int64], logits: Logits) -> NDArray[np.int64]:
    if len(token_ids) and not 0 <= token_ids.min() <= token_ids.max() < len(logits):
        outside = token_ids[(token_ids < 0) | (token_ids >= len(logits))][0]
        raise ValueError(f"token id {outside} is outside the vocabulary of {len(logits)}")
    return token_ids


def _largest(values: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """Indices of the k largest values, ascending; lower indices first among equals."""
    bound = np.partition(values, len(values) - k)[len(values) - k]
    kept = values > bound
    kept[np.flatnonzero(values == bound)[: k - np.count_nonzero(kept)]] = True
    return np.flatnonzero(kept)


def _nucleus(weights: NDArray[np.float64], top_p: float) -> NDArray[np.int64]:
    """Indices of the fewest largest weights that reach the share top_p, ascending.

    Sorts only as many of the largest as are needed.
    """
    wanted = top_p * weights.sum()
    size = min(256, len(weights))
    while True:
        largest = np.sort(np.partition(weights, len(weights) - size)[-size:])[::-1]
        n_wanted = int(largest.cumsum().searchsorted(wanted)) + 1
        if n_wanted <= size or size == len(weights):
            return _largest(weights, min(n_wanted, size))
        size = min(16 * size, len(weights))
