"""A model for schedulers: tiny, with chunks of 64 tokens and as few slots as wanted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scheduled import LoadWithSlots, Turns

import moeflux
from moeflux.server.jobs.scheduler import Scheduler
from tiny_checkpoint import CheckpointFolders


@pytest.fixture
def load_with_slots(
    tiny_folder: CheckpointFolders, monkeypatch: pytest.MonkeyPatch
) -> LoadWithSlots:
    """Loads the tiny model with a number of slots, without a cap on the states of sessions."""
    monkeypatch.setattr("moeflux.engine.budget.resident_memory", lambda: 0)
    folder = tiny_folder("qwen3_5_moe")

    def load(n_slots: int, prefetch: str = "off") -> moeflux.Model:
        settings = moeflux.Settings(prefill_chunk=64, prefetch=prefetch)
        with moeflux.load(folder, device="cpu", settings=settings) as probe:
            needs = probe.memory_needs
        memory = needs.fixed_nbytes + n_slots * needs.slot_nbytes
        return moeflux.load(folder, device="cpu", memory=memory, settings=settings)

    return load


@pytest.fixture
def served(tiny_folder: CheckpointFolders) -> Iterator[moeflux.Model]:
    """All experts in memory."""
    settings = moeflux.Settings(prefill_chunk=64)
    with moeflux.load(tiny_folder("qwen3_5_moe"), device="cpu", settings=settings) as model:
        yield model


@pytest.fixture
def scheduler(served: moeflux.Model) -> Iterator[Scheduler]:
    with Scheduler(served, max_active=3, max_queued=4) as scheduler:
        yield scheduler


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    return Turns(monkeypatch)
