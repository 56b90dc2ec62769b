"""What 8-bit activations cost the demo model, and that its results say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import moeflux

N_TOKENS = 256


def demo(activations: str) -> moeflux.Model:
    settings = moeflux.Settings(activations=activations)
    return moeflux.load("demo", device="cpu", settings=settings)


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def test_int8_activations_stay_close_on_python_source() -> None:
    text = Path(np.__file__).with_name("_globals.py").read_text()
    with demo("float32") as exact, demo("int8") as rounded:
        tokens = exact.tokenizer.encode(text)[:N_TOKENS]
        p = log_probabilities(exact.session().prefill_all_logits(tokens))
        q = log_probabilities(rounded.session().prefill_all_logits(tokens))
    divergence = (np.exp(p) * (p - q)).sum(-1).mean()
    agreement = (p.argmax(-1) == q.argmax(-1)).mean()
    following = np.arange(len(tokens) - 1), np.array(tokens[1:])
    perplexities = [np.exp(-rows[following].mean()) for rows in (p, q)]
    assert divergence < 2e-3
    assert agreement > 0.97
    assert abs(perplexities[1] / perplexities[0] - 1) < 0.01


def test_a_generation_names_what_was_lossy() -> None:
    with demo("int8") as model:
        events = model.generate("def f(x):", max_tokens=2)
        list(events)
        assert events.stats.lossy == ("activations=int8",)
        assert "int8 activations" in model.device.description


def test_nothing_is_lossy_by_default() -> None:
    assert moeflux.Settings().lossy == ()
