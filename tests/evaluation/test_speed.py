"""A benchmark counts what it ran, and says truly what the page cache held before it."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import mean, stdev

import pytest

import moeflux
from moeflux.evaluation import page_cache, speed
from tiny_checkpoint import CheckpointFolders

CPU = moeflux.Settings(device="cpu", context_size=64)


def run(folder: Path, **workload: object) -> moeflux.Benchmark:
    chosen = moeflux.SpeedWorkload(**{"n_prompt": 8, "n_generated": 4, **workload})  # type: ignore[arg-type]
    return moeflux.benchmark(folder, "cpu", None, CPU, chosen)


@pytest.fixture
def packed(tiny_folder: CheckpointFolders, tmp_path: Path) -> Path:
    """Experts in files of their own, which nothing maps."""
    moeflux.convert(tiny_folder("qwen3_moe", "mlx"), tmp_path / "packed")
    return tmp_path / "packed"


def test_every_repetition_counts_the_tokens_it_was_asked_for(packed: Path) -> None:
    result = run(packed, n_repetitions=3)
    assert [phase.name for phase in result.phases] == ["prefill", "decode"]
    assert [phase.n_tokens for phase in result.phases] == [8, 4]
    for phase, costs in zip(
        result.phases,
        ([r.prefill for r in result.repetitions], [r.decode for r in result.repetitions]),
        strict=True,
    ):
        speeds = [phase.n_tokens / cost.seconds for cost in costs]
        assert phase.tokens_per_second == pytest.approx(speeds)
        assert phase.mean == pytest.approx(mean(speeds))
        assert phase.standard_deviation == pytest.approx(stdev(speeds))


def test_a_warm_run_finds_all_experts_in_slots_and_reads_nothing(packed: Path) -> None:
    result = run(packed, n_repetitions=2)
    assert result.n_slots == result.n_experts
    for phase in result.phases:
        assert phase.hit_rate == 1.0
        assert phase.bytes_read_per_token == 0


def test_one_repetition_has_no_spread(packed: Path) -> None:
    assert run(packed, n_repetitions=1).phases[0].standard_deviation is None


def test_phases_without_tokens_are_left_out(packed: Path) -> None:
    assert [p.name for p in run(packed, n_prompt=0, n_repetitions=1).phases] == ["decode"]
    only_prefill = run(packed, n_generated=0, n_repetitions=1)
    assert [p.name for p in only_prefill.phases] == ["prefill"]
    assert only_prefill.decode_weight_nbytes_per_second is None


def test_weights_per_second_are_those_of_a_token_times_tokens(packed: Path) -> None:
    result = run(packed, n_repetitions=1)
    touched = result.weight_nbytes_per_token
    assert result.decode_weight_nbytes_per_second == pytest.approx(touched * result.phases[1].mean)
    assert result.memory_nbytes_per_second > 0


@pytest.mark.skipif(
    not hasattr(os, "posix_fadvise"), reason="the system takes no advice on its page cache"
)
def test_a_cold_run_begins_with_nothing_in_page_cache_and_slots(packed: Path) -> None:
    result = run(packed, n_repetitions=2, cold=True)
    assert result.page_cache == "cold"
    assert [r.page_cache_share for r in result.repetitions] == [0.0, 0.0]
    assert all(r.prefill.experts_ready == 0 for r in result.repetitions)
    assert all(r.prefill.bytes_read > 0 for r in result.repetitions)
    assert all(r.load_seconds > 0 for r in result.repetitions)


def test_cold_is_never_claimed_where_nothing_was_dropped(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "drop", lambda _: False)
    for path in packed.rglob("*.bin"):
        path.read_bytes()
    result = run(packed, n_repetitions=1, cold=True)
    assert result.page_cache == "warm"


def test_what_cannot_be_known_is_unknown(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_cache, "_is_truthful", lambda: False)
    assert run(packed, n_repetitions=1).page_cache == "unknown"


def test_repetitions_that_differ_are_mixed(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([0.0, 1.0])
    monkeypatch.setattr(speed, "resident_share", lambda _: next(shares))
    assert run(packed, n_repetitions=2).page_cache == "mixed"


def test_the_prompt_is_the_same_every_time(packed: Path) -> None:
    with moeflux.load(packed, "cpu", settings=CPU) as model:
        workload = moeflux.SpeedWorkload(n_prompt=20)
        prompt = speed._prompt(model, workload)
        assert prompt == speed._prompt(model, workload)
        assert len(prompt) == 20
        assert len(set(prompt)) > 10


def test_a_text_is_repeated_to_the_length_of_the_prompt() -> None:
    with moeflux.load("demo", "cpu") as model:
        tokens = model.tokenizer.encode("def f(x):\n    return x\n")
        prompt = speed._prompt(
            model, moeflux.SpeedWorkload(n_prompt=50, text="def f(x):\n    return x\n")
        )
    assert prompt == (tokens * 50)[:50]


def test_progress_is_told_after_each_repetition(packed: Path) -> None:
    told: list[tuple[int, int]] = []
    workload = moeflux.SpeedWorkload(2, 1, 3)
    moeflux.benchmark(packed, "cpu", None, CPU, workload, progress=lambda *done: told.append(done))
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        ({"n_prompt": 0, "n_generated": 0}, "needs tokens"),
        ({"n_prompt": -1}, "needs tokens"),
        ({"n_repetitions": 0}, "n_repetitions must be at least 1"),
    ],
)
def test_a_workload_of_nothing_is_refused(workload: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        moeflux.SpeedWorkload(**workload)
