"""A memory cap also holds for the states of further sessions."""

from __future__ import annotations

from pathlib import Path

import pytest

import moeflux
from tiny_checkpoint import CheckpointFolders

CONTEXT = 256


@pytest.fixture
def folder(tiny_folder: CheckpointFolders, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny checkpoint, in a process that holds no memory."""
    monkeypatch.setattr("moeflux.engine.budget.resident_memory", lambda: 0)
    return tiny_folder("qwen3_moe", "mlx")


def load(folder: Path, *, capped: bool = True) -> moeflux.Model:
    """With a cap that leaves room for three slots and one session."""
    settings = moeflux.Settings(context_size=CONTEXT)
    with moeflux.load(folder, device="cpu", settings=settings) as probe:
        needs = probe.memory_needs
    cap = needs.fixed_nbytes + 3 * needs.slot_nbytes
    return moeflux.load(folder, device="cpu", memory=cap if capped else None, settings=settings)


def test_a_second_session_of_the_planned_size_is_refused_with_the_numbers(folder: Path) -> None:
    with load(folder) as model:
        first = model.session()
        with pytest.raises(moeflux.SessionMemoryError, match=f"{CONTEXT} positions") as caught:
            model.session()
        assert caught.value.wanted == model.memory_needs.state_nbytes
        assert caught.value.free == caught.value.cap - caught.value.wanted
        assert first.prefill([1, 2]).size


def test_sessions_that_fit_together_are_given(folder: Path) -> None:
    with load(folder) as model:
        halves = [model.session(CONTEXT // 2) for _ in range(2)]
        with pytest.raises(moeflux.SessionMemoryError):
            model.session(64)
        assert len(halves) == 2


def test_a_session_that_is_gone_makes_room(folder: Path) -> None:
    with load(folder) as model:
        for _ in range(5):
            assert model.session().position == 0


def test_a_refused_session_takes_nothing(folder: Path) -> None:
    with load(folder) as model:
        with pytest.raises(moeflux.SessionMemoryError):
            model.session(CONTEXT * 2)
        assert model.session().position == 0


def test_without_a_cap_there_is_no_limit(folder: Path) -> None:
    with load(folder, capped=False) as model:
        assert len([model.session() for _ in range(3)]) == 3
