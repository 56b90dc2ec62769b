"""The doctor's run of the demo model."""

from __future__ import annotations

import numpy as np
import pytest

import moeflux
from moeflux._core import device_names
from moeflux.doctor import Status, demo_check
from moeflux.doctor.demo_check import LEAST_LEAD, PROMPT, TOKENS, check_demo
from moeflux.errors import CheckpointError

SETTINGS = moeflux.Settings(n_threads=2)


@pytest.mark.parametrize("device", device_names())
def test_the_demo_model_writes_what_it_should(device: str) -> None:
    tokens, logits = check_demo(device, SETTINGS)
    assert tokens.status is Status.OK, tokens.said
    assert tokens.values["tokens"] == list(TOKENS)
    assert logits.status is Status.OK, logits.said


def test_expected_tokens_lead_clearly() -> None:
    """Otherwise rounding could decide which token is the best."""
    with moeflux.load("demo", "cpu") as model:
        prompt = model.encode_prompt(PROMPT)
        logits = model.session().prefill_all_logits([*prompt, *TOKENS[:-1]])[len(prompt) - 1 :]
    best = np.sort(logits, axis=1)
    assert logits.argmax(axis=1).tolist() == list(TOKENS)
    assert (best[:, -1] - best[:, -2]).min() > LEAST_LEAD


def test_another_token_is_a_problem_that_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_check, "TOKENS", (TOKENS[0], TOKENS[1] + 1))
    tokens, _ = check_demo("cpu", SETTINGS)
    assert tokens.status is Status.PROBLEM
    assert f"token 1 should be {TOKENS[1] + 1}, got {TOKENS[1]}" in tokens.said


def test_other_logits_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_check, "LOGITS_TOLERANCE", -1.0)
    _, logits = check_demo("cpu", SETTINGS)
    assert logits.status is Status.PROBLEM


def test_a_demo_that_does_not_load_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise CheckpointError("demo: no config.json")

    monkeypatch.setattr(demo_check, "load", load)
    (finding,) = check_demo("cpu", SETTINGS)
    assert finding.status is Status.PROBLEM
    assert finding.said == "CheckpointError: demo: no config.json"
