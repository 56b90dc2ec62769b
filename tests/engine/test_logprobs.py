"""Logarithms of the probabilities of generated tokens: the model's own, against softmax."""

from __future__ import annotations

import numpy as np
import pytest

import moeflux

PROMPT = "def main():"


def log_softmax(logits: np.ndarray) -> np.ndarray:
    exact = logits.astype(np.float64)
    return np.asarray(exact - np.logaddexp.reduce(exact))


def test_logprobs_are_those_of_the_models_distribution(hybrid: moeflux.Model) -> None:
    events = list(hybrid.generate(PROMPT, max_tokens=5, logprobs=3))
    session = hybrid.session()
    logits = session.prefill(hybrid.encode_prompt(PROMPT))
    for event in events:
        log = log_softmax(logits)
        best = np.argsort(-log, kind="stable")[:3].tolist()
        assert event.logprobs is not None
        assert event.logprobs.logprob == pytest.approx(log[event.token_id], abs=1e-9)
        assert [token_id for token_id, _ in event.logprobs.top] == best
        assert [logprob for _, logprob in event.logprobs.top] == pytest.approx(log[best], abs=1e-9)
        logits = session.decode(event.token_id)


def test_sampling_does_not_change_what_logprobs_are_of(hybrid: moeflux.Model) -> None:
    plain = next(hybrid.generate(PROMPT, max_tokens=2, logprobs=4))
    altered = next(
        hybrid.generate(
            PROMPT,
            max_tokens=2,
            logprobs=4,
            temperature=2.0,
            top_k=1,
            repetition_penalty=1.5,
            logit_bias={9: 1000.0},
        )
    )
    assert plain.logprobs is not None
    assert altered.logprobs is not None
    assert altered.token_id == 9
    assert altered.logprobs.top == plain.logprobs.top
    assert altered.logprobs.logprob < plain.logprobs.logprob


def test_no_others_can_be_asked_for(hybrid: moeflux.Model) -> None:
    for event in hybrid.generate(PROMPT, max_tokens=3, logprobs=0):
        assert event.logprobs is not None
        assert event.logprobs.top == ()
        assert event.logprobs.logprob < 0


def test_there_are_none_unless_asked_for(hybrid: moeflux.Model) -> None:
    assert all(event.logprobs is None for event in hybrid.generate(PROMPT, max_tokens=3))


def test_asking_changes_no_token(hybrid: moeflux.Model) -> None:
    runs = [
        [
            event.token_id
            for event in hybrid.generate(
                PROMPT, max_tokens=8, temperature=1.0, seed=5, logprobs=logprobs
            )
        ]
        for logprobs in (None, 2)
    ]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("logprobs", [-1, 10**6])
def test_more_than_the_vocabulary_has_is_refused_at_the_call(
    hybrid: moeflux.Model, logprobs: int
) -> None:
    with pytest.raises(ValueError, match=rf"logprobs must be 0 .. \d+, got {logprobs}"):
        hybrid.generate(PROMPT, logprobs=logprobs)
