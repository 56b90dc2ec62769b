"""The model that ships: what it is, and that it writes like the text it was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import moeflux


@pytest.fixture(scope="module")
def demo() -> Iterator[moeflux.Model]:
    with moeflux.load("demo", device="cpu") as model:
        yield model


def test_is_a_small_hybrid_with_many_experts() -> None:
    info = moeflux.inspect("demo")
    assert info.model_type == "qwen3_5_moe"
    assert info.n_experts >= 24
    assert info.top_k == 4
    assert info.quantisation == "affine 4-bit, groups of 64"


def test_takes_at_most_20_megabytes(demo: moeflux.Model) -> None:
    assert sum(path.stat().st_size for path in demo.path.rglob("*")) <= 20_000_000


def test_has_a_card_and_the_licence_of_its_data(demo: moeflux.Model) -> None:
    card = (demo.path / "README.md").read_text()
    for subject in ("licence", "held-out", "4-bit"):
        assert subject in card.lower()
    assert "PYTHON SOFTWARE FOUNDATION LICENSE" in (demo.path / "LICENSE-DATA.txt").read_text()


def test_predicts_python_far_better_than_chance(demo: moeflux.Model) -> None:
    text = Path(np.__file__).read_text()[:4000]
    tokens = demo.tokenizer.encode(text)[:512]
    logits = demo.session().prefill_all_logits(tokens)[:-1].astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    nats = -log_probabilities[np.arange(len(tokens) - 1), tokens[1:]].mean()
    assert nats < 4.5  # a uniform guess over 8192 tokens costs 9.0


def test_closes_what_a_function_opens(demo: moeflux.Model) -> None:
    prompt = 'def read_lines(path):\n    """Read the lines of a file."""\n    with open(path'
    text = "".join(event.text for event in demo.generate(prompt, max_tokens=12))
    assert ") as " in text


def test_chat_template_ends_the_turn(demo: moeflux.Model) -> None:
    messages = [{"role": "user", "content": "What does os.path.join do?"}]
    *_, last = demo.generate(messages, max_tokens=200)
    assert last.finish_reason == "stop"
