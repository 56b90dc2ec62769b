"""Sampler: distributions against hand-computed ones, determinism, refusals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from moeflux.engine.sampler import (
    Sampler,
    SamplingParams,
    TokenHistory,
    log_probabilities,
    top_log_probabilities,
)
from moeflux.errors import LogitsError

Logits = NDArray[np.float32]
LOGITS = arrays(np.float32, st.integers(1, 40), elements=st.floats(-30, 30, width=32))
ROUNDED_LOGITS = arrays(np.float32, st.integers(1, 40), elements=st.integers(-3, 3).map(float))


def logits_of(*probabilities: float) -> Logits:
    return np.log(np.array(probabilities)).astype(np.float32)


def history_of(prompt: Sequence[int], generated: Sequence[int] = ()) -> TokenHistory:
    history = TokenHistory(prompt)
    for token_id in generated:
        history.append(token_id)
    return history


def distribution(params: SamplingParams, logits: Logits) -> dict[int, float]:
    return Sampler(params).probabilities(logits, TokenHistory())


# ---- greedy ----


@given(ROUNDED_LOGITS)
def test_temperature_zero_takes_the_most_probable_lowest_id(logits: Logits) -> None:
    expected = max(range(len(logits)), key=lambda token_id: (logits[token_id], -token_id))
    assert Sampler(SamplingParams()).sample(logits, TokenHistory()) == expected


@given(LOGITS, st.integers(0, 2**32))
def test_top_k_of_one_is_greedy(logits: Logits, seed: int) -> None:
    params = SamplingParams(temperature=1.5, top_k=1, seed=seed)
    assert Sampler(params).sample(logits, TokenHistory()) == int(logits.argmax())


# ---- distributions ----


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (SamplingParams(temperature=1), {0: 0.1, 1: 0.5, 2: 0.25, 3: 0.15}),
        # squares, divided by their sum
        (SamplingParams(temperature=0.5), {0: 0.01, 1: 0.25, 2: 0.0625, 3: 0.0225}),
        (SamplingParams(temperature=1, top_k=2), {1: 0.5, 2: 0.25}),
        (SamplingParams(temperature=1, top_k=9), {0: 0.1, 1: 0.5, 2: 0.25, 3: 0.15}),
        (SamplingParams(temperature=1, top_p=0.45), {1: 0.5}),
        (SamplingParams(temperature=1, top_p=0.55), {1: 0.5, 2: 0.25}),
        (SamplingParams(temperature=1, top_p=0.8), {1: 0.5, 2: 0.25, 3: 0.15}),
        (SamplingParams(temperature=1, top_p=1e-9), {1: 0.5}),
        (SamplingParams(temperature=1, min_p=0.4), {1: 0.5, 2: 0.25}),
        (SamplingParams(temperature=1, min_p=1), {1: 0.5}),
        # top_p sees what top_k left: 0.5 of 0.75 is 0.67
        (SamplingParams(temperature=1, top_k=2, top_p=0.6), {1: 0.5}),
        # top_p sees the temperature: 0.25 of 0.345 is 0.72
        (SamplingParams(temperature=0.5, top_p=0.7), {1: 0.5}),
        (SamplingParams(temperature=1e-30), {1: 1.0}),
    ],
)
def test_filters_leave_the_computed_distribution(
    params: SamplingParams, expected: dict[int, float]
) -> None:
    found = distribution(params, logits_of(0.1, 0.5, 0.25, 0.15))
    total = sum(expected.values())
    kept = {token_id: p for token_id, p in found.items() if p > 0}
    assert kept == {key: pytest.approx(p / total, abs=1e-6) for key, p in expected.items()}


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        (SamplingParams(temperature=1, top_k=2), {0, 1}),
        (SamplingParams(temperature=1, top_p=0.5), {0, 1}),
    ],
)
def test_lower_ids_are_kept_among_equals(params: SamplingParams, kept: set[int]) -> None:
    assert distribution(params, logits_of(0.25, 0.25, 0.25, 0.25)).keys() == kept


def nucleus(weights: dict[int, float], ids: list[int], share: float) -> list[int]:
    """The first of `ids` that have at least this share of the sum, or all."""
    reached, total = 0.0, sum(weights[i] for i in ids)
    for count, token_id in enumerate(ids, 1):
        reached += weights[token_id]
        if reached >= share * total:
            return ids[:count]
    return ids


@given(
    LOGITS,
    st.floats(0.05, 3),
    st.integers(0, 45),
    st.floats(0.01, 1),
    st.floats(0, 1),
)
@example(np.array([10, 0, 0], np.float32), 0.25, 0, 1.0, 0.0)  # the rest is lost in rounding
def test_filters_agree_with_sorting_everything(
    logits: Logits, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    weights = {i: math.exp((x - logits.max()) / temperature) for i, x in enumerate(logits.tolist())}
    kept = sorted(weights, key=lambda i: (-logits[i], i))[: top_k or None]
    kept.sort(key=lambda i: (-weights[i], i))
    least, most = (
        [i for i in ids if weights[i] >= min_p / slack * weights[ids[0]]]
        for slack in (1 - 1e-6, 1 + 1e-6)
        for ids in [nucleus(weights, kept, top_p * slack)]
    )
    found = distribution(params, logits)
    # What meets top_p or min_p within rounding may fall on either side.
    assert len(least) <= len(found) <= len(most)
    kept = least
    if len(found) == len(kept):
        total = sum(weights[i] for i in kept)
        expected = {i: pytest.approx(weights[i] / total, rel=1e-6) for i in kept}
        assert {i: p for i, p in found.items() if p > 1e-300} == {
            i: p for i, p in expected.items() if weights[i] / total > 1e-300
        }


def test_nucleus_of_many_tokens_is_exact() -> None:
    logits = np.zeros(5000, np.float32)
    found = distribution(SamplingParams(temperature=1, top_p=0.8), logits)
    assert found.keys() == set(range(4000))


def test_drawn_tokens_follow_the_distribution() -> None:
    logits = logits_of(0.1, 0.6, 0.3)
    sampler = Sampler(SamplingParams(temperature=1, seed=3))
    n = 20_000
    drawn = [sampler.sample(logits, TokenHistory()) for _ in range(n)]
    for token_id, p in enumerate((0.1, 0.6, 0.3)):
        # Five standard deviations of a binomial distribution.
        assert abs(drawn.count(token_id) - n * p) < 5 * math.sqrt(n * p * (1 - p))


@given(LOGITS, st.integers(0, 2**32), st.floats(0.1, 2), st.floats(0.1, 1))
def test_drawn_token_is_one_that_the_filters_leave(
    logits: Logits, seed: int, temperature: float, top_p: float
) -> None:
    sampler = Sampler(SamplingParams(temperature=temperature, top_p=top_p, seed=seed))
    assert sampler.probabilities(logits, TokenHistory())[sampler.sample(logits, TokenHistory())] > 0


# ---- seeds ----


def test_same_seed_draws_the_same_tokens() -> None:
    logits = np.random.default_rng(0).standard_normal((50, 1000)).astype(np.float32)
    runs = []
    for seed in (7, 7, 8):
        sampler = Sampler(SamplingParams(temperature=1, seed=seed))
        runs.append([sampler.sample(row, TokenHistory()) for row in logits])
    assert runs[0] == runs[1] != runs[2]


def test_one_random_number_is_used_for_a_token() -> None:
    logits = logits_of(0.25, 0.25, 0.25, 0.25)
    expected = np.random.Generator(np.random.PCG64(11)).random(20) * 4
    sampler = Sampler(SamplingParams(temperature=1, seed=11))
    drawn = [sampler.sample(logits, TokenHistory()) for _ in range(20)]
    assert drawn == expected.astype(int).tolist()


def test_sampler_without_a_seed_tells_the_one_it_drew() -> None:
    logits = np.zeros(1000, np.float32)
    first = Sampler(SamplingParams(temperature=1))
    again = Sampler(SamplingParams(temperature=1, seed=first.seed))
    assert [first.sample(logits, TokenHistory()) for _ in range(5)] == [
        again.sample(logits, TokenHistory()) for _ in range(5)
    ]
    assert first.seed != Sampler(SamplingParams(temperature=1)).seed


# ---- penalties ----


def penalised(params: SamplingParams, history: TokenHistory) -> list[float]:
    """The logits [4] that a softmax with these probabilities has, up to a constant."""
    logits = np.array([2.0, -1.0, 0.5, 0.0], np.float32)
    found = Sampler(params).probabilities(logits, history)
    return [math.log(found[token_id] / found[3]) for token_id in range(3)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [2.0, -1.0, 0.5]),
        ({"repetition_penalty": 2.0}, [1.0, -2.0, 0.5]),
        ({"presence_penalty": 0.5}, [2.0, -1.5, 0.5]),
        ({"frequency_penalty": 0.5}, [2.0, -2.0, 0.5]),
        ({"presence_penalty": -1.0, "frequency_penalty": 0.25}, [2.0, -0.5, 0.5]),
        ({"repetition_penalty": 2.0, "presence_penalty": 0.5}, [1.0, -2.5, 0.5]),
        ({"logit_bias": {2: 1.5}}, [2.0, -1.0, 2.0]),
        # The bias comes first: -1 + 2 is positive, so the penalty divides.
        ({"logit_bias": {1: 2.0}, "repetition_penalty": 2.0}, [1.0, 0.5, 0.5]),
    ],
)
def test_penalties_change_the_logits_as_defined(
    fields: dict[str, float | dict[int, float]], expected: list[float]
) -> None:
    # Token 0 is in the prompt, token 1 came twice in the answer.
    params = SamplingParams(temperature=1, **fields)  # type: ignore[arg-type]
    assert penalised(params, history_of([0], [1, 1])) == pytest.approx(expected, abs=1e-5)


def test_penalties_count_at_temperature_zero() -> None:
    sampler = Sampler(SamplingParams(repetition_penalty=4))
    logits = np.array([2.0, 1.0], np.float32)
    assert sampler.sample(logits, history_of([0])) == 1


def test_logits_are_left_as_they_are() -> None:
    logits = np.arange(5, dtype=np.float32)
    params = SamplingParams(temperature=1, repetition_penalty=2, logit_bias={0: 1}, top_p=0.5)
    Sampler(params).sample(logits, history_of([1, 2], [3]))
    assert logits.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("params", "history", "message"),
    [
        (SamplingParams(logit_bias={9: 1.0}), TokenHistory(), "token id 9 is outside .* of 4"),
        (SamplingParams(repetition_penalty=2), TokenHistory([4]), "token id 4 is outside .* of 4"),
    ],
)
def test_token_beyond_the_vocabulary_is_refused(
    params: SamplingParams, history: TokenHistory, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Sampler(params).sample(np.zeros(4, np.float32), history)


# ---- constraints ----

ALLOWED = st.lists(st.booleans(), min_size=40, max_size=40)


@given(LOGITS, ALLOWED, st.floats(0, 2), st.integers(0, 5))
def test_tokens_that_are_not_allowed_are_as_if_they_were_not_there(
    logits: Logits, chosen: list[bool], temperature: float, top_k: int
) -> None:
    allowed = np.array(chosen[: len(logits)])
    allowed[0] = True
    token_ids = np.flatnonzero(allowed)
    sampler = Sampler(SamplingParams(temperature=temperature, top_k=top_k, top_p=0.9, min_p=0.01))
    found = sampler.probabilities(logits, TokenHistory(), allowed)
    of_the_rest = sampler.probabilities(logits[allowed], TokenHistory())
    assert found == {int(token_ids[index]): share for index, share in of_the_rest.items()}
    assert sampler.sample(logits, TokenHistory(), allowed) in found


def test_allowing_every_token_changes_no_draw() -> None:
    logits = np.random.default_rng(0).standard_normal((50, 100)).astype(np.float32)
    free, bound = (Sampler(SamplingParams(temperature=1, top_p=0.9, seed=2)) for _ in range(2))
    every = np.ones(100, np.bool_)
    for row in logits:
        expected = free.sample(row, TokenHistory())
        assert bound.sample(row, TokenHistory(), every) == expected


@pytest.mark.parametrize("temperature", [0, 1])
def test_where_no_token_is_allowed_it_is_refused(temperature: float) -> None:
    sampler = Sampler(SamplingParams(temperature=temperature))
    with pytest.raises(LogitsError, match="none of 3 tokens is allowed"):
        sampler.sample(np.zeros(3, np.float32), TokenHistory(), np.zeros(3, np.bool_))


def test_logits_of_tokens_that_are_not_allowed_have_to_be_finite_too() -> None:
    logits = np.array([0.0, math.nan], np.float32)
    with pytest.raises(LogitsError, match="1 of 2 logits are not finite"):
        Sampler(SamplingParams()).sample(logits, TokenHistory(), np.array([True, False]))


# ---- refusals ----


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -0.1}, "temperature must be 0 or more, got -0.1"),
        ({"temperature": math.nan}, "temperature must be 0 or more, got nan"),
        ({"temperature": math.inf}, "temperature must be 0 or more, got inf"),
        ({"top_p": 0.0}, "top_p must be above 0, at most 1, got 0.0"),
        ({"top_p": 1.1}, "top_p must be"),
        ({"top_k": -1}, "top_k must be"),
        ({"top_k": 2.5}, "top_k must be"),
        ({"min_p": -0.1}, "min_p must be"),
        ({"min_p": 1.1}, "min_p must be"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0, got 0.0"),
        ({"presence_penalty": math.nan}, "presence_penalty must be finite, got nan"),
        ({"frequency_penalty": math.inf}, "frequency_penalty must be finite, got inf"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 1.5}, "seed must be"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias must be token ids of 0 or more, got -1"),
        ({"logit_bias": {1: math.inf}}, "logit_bias must be finite, got inf"),
    ],
)
def test_parameter_out_of_range_is_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingParams(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_are_not_finite_are_refused(value: float, temperature: float) -> None:
    logits = np.array([0.0, 1.0, value, value], np.float32)
    with pytest.raises(LogitsError, match=f"2 of 4 logits .* first is {value} of token 2"):
        Sampler(SamplingParams(temperature=temperature)).sample(logits, TokenHistory())


def test_penalty_that_overflows_is_refused() -> None:
    sampler = Sampler(SamplingParams(temperature=1, repetition_penalty=1e-38))
    with pytest.raises(LogitsError, match="1 of 2 logits are not finite"):
        sampler.sample(np.array([30.0, 1.0], np.float32), TokenHistory([0]))


@pytest.mark.parametrize("shape", [(0,), (1, 5)])
def test_logits_that_are_not_a_vector_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(LogitsError, match="must be a vector"):
        Sampler(SamplingParams()).sample(np.zeros(shape, np.float32), TokenHistory())


# ---- logarithms ----


def test_log_probabilities_are_of_the_model_itself() -> None:
    found = log_probabilities(logits_of(0.1, 0.5, 0.25, 0.15))
    assert np.exp(found) == pytest.approx([0.1, 0.5, 0.25, 0.15], abs=1e-7)


def test_top_log_probabilities_come_best_first() -> None:
    found = top_log_probabilities(logits_of(0.1, 0.3, 0.3, 0.2, 0.1), 4)
    assert [token_id for token_id, _ in found] == [1, 2, 3, 0]
    assert [log for _, log in found] == pytest.approx(np.log([0.3, 0.3, 0.2, 0.1]), abs=1e-6)


@pytest.mark.parametrize("n", [-1, 4])
def test_more_log_probabilities_than_tokens_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"n must be 0 .. 3, got {n}"):
        top_log_probabilities(np.zeros(3, np.float32), n)
