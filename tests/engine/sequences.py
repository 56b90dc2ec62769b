"""Straight runs to compare with: the same tokens, fed to a new session in the same ways."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pytest

import moeflux

PROMPT = [3 + (7 * index) % 250 for index in range(150)]
PROBE = 77
"""A token that is fed to compare states: its logits depend on all of them."""

Logits = npt.NDArray[np.float32]


def assert_same_bits(actual: Logits, expected: Logits) -> None:
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


def after_probe(session: moeflux.Session) -> list[Logits]:
    """Logits after the probe and one more token."""
    return [session.decode(PROBE), session.prefill(PROMPT[:5])]


def assert_same_state(session: moeflux.Session, straight: moeflux.Session) -> None:
    """Both go on in the same way, bit by bit; they do so here."""
    assert session.tokens == straight.tokens
    for got, wanted in zip(after_probe(session), after_probe(straight), strict=True):
        assert_same_bits(got, wanted)


@contextmanager
def capped(
    folder: object, context_size: int, patch: pytest.MonkeyPatch, *, spare: int = 0
) -> Iterator[moeflux.Model]:
    """A model whose cap leaves room for all experts, the state of one session, `spare` bytes."""
    patch.setattr("moeflux.engine.budget.resident_memory", lambda: 0)
    settings = moeflux.Settings(context_size=context_size)
    with moeflux.load(str(folder), device="cpu", settings=settings) as probe:
        cap = probe.memory_needs.whole_nbytes + spare
    with moeflux.load(str(folder), device="cpu", memory=cap, settings=settings) as model:
        yield model
