"""Streaming changes what is read and when, never a bit of what is computed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

import moeflux
from tiny_checkpoint import CheckpointFolders

PROMPT = [3 + (11 * index) % 250 for index in range(90)]
N_DECODED = 24
TOP_K = 2
N_EXPERTS = 4 * 8

Run = Callable[..., tuple[np.ndarray, moeflux.Model]]


@pytest.fixture
def run(tiny_folder: CheckpointFolders, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Logits [N_DECODED, V] of a greedy run with given slots and settings, and the closed model."""
    monkeypatch.setattr("moeflux.engine.budget.resident_memory", lambda: 0)

    def run(kind: str, n_slots: int, **settings: object) -> tuple[np.ndarray, moeflux.Model]:
        folder = tiny_folder(kind, "mlx")
        with moeflux.load(folder, device="cpu") as probe:
            needs = probe.memory_needs
        memory = needs.fixed_nbytes + n_slots * needs.slot_nbytes
        chosen = moeflux.Settings(**settings)  # type: ignore[arg-type]
        with moeflux.load(folder, device="cpu", memory=memory, settings=chosen) as model:
            assert model.runtime.experts.n_slots == n_slots
            session = model.session()
            rows = [session.prefill(PROMPT)]
            for _ in range(N_DECODED):
                rows.append(session.decode(int(rows[-1].argmax())))
        return np.stack(rows), model

    return run


@cache
def reference(run: Run, kind: str) -> np.ndarray:
    """Everything in memory, no prefetch, one thread, one worker."""
    logits, _ = run(kind, N_EXPERTS, prefetch="off", n_threads=1, n_read_workers=1)
    return logits


MATRIX = [
    *({"n_slots": n} for n in (TOP_K, 2 * TOP_K, N_EXPERTS // 2, N_EXPERTS)),
    *(
        {"n_slots": 2 * TOP_K + 1, "prefetch": mode}
        for mode in ("off", "previous-token", "next-router", "combined", "auto")
    ),
    *({"n_slots": 6, "prefetch": "combined", "n_threads": n} for n in (1, 2, 8)),
    *({"n_slots": 6, "prefetch": "combined", "n_read_workers": n} for n in (1, 8, 32)),
    *({"n_slots": 6, "eviction": policy} for policy in ("lru", "lfu", "lfru")),
    *({"n_slots": 6, "n_read_parts": n} for n in (1, 3)),
    *({"n_slots": 6, "verify": verify} for verify in ("off", "always")),
]


@pytest.mark.parametrize("kind", ["qwen3_5_moe", "qwen3_moe"])
@pytest.mark.parametrize(
    "settings", MATRIX, ids=lambda settings: "-".join(map(str, settings.values()))
)
def test_logits_are_the_same_bits(run: Run, kind: str, settings: dict[str, object]) -> None:
    logits, _ = run(kind, **settings)
    expected = reference(run, kind)
    np.testing.assert_array_equal(logits.view(np.uint32), expected.view(np.uint32))


def test_the_hundredth_repeat_gives_the_same_bits(hybrid: moeflux.Model) -> None:
    session = hybrid.session()
    expected = session.prefill(PROMPT[:20])
    for _ in range(99):
        session.reset()
        np.testing.assert_array_equal(session.prefill(PROMPT[:20]), expected)


def test_prefetch_reads_ahead_of_demand(run: Run) -> None:
    _, model = run("qwen3_5_moe", 12, prefetch="next-router")
    counters = model.runtime.experts.residency.prefetch.counters["next-router"]
    assert counters.useful_nbytes + counters.late_nbytes > 0


def test_counters_add_up(run: Run) -> None:
    _, model = run("qwen3_5_moe", 6, prefetch="off")
    counters = model.runtime.experts.counters
    record = model.runtime.experts.slot_nbytes
    decoded = N_DECODED * 4 * TOP_K
    assert counters.n_ready + counters.n_late + counters.n_missed >= decoded
    assert counters.n_reads == counters.n_missed
    assert 0 < counters.bytes_read <= counters.n_reads * record
