"""What a generation says it cost: its own steps only, every second and byte accounted for."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable

import psutil
import pytest

import moeflux
from moeflux.engine import account
from moeflux.engine.account import Account, Ledger, Totals
from moeflux.engine.generate import Generation
from moeflux.engine.receipt import GenerationStats, PhaseStats, predictor_stats
from moeflux.experts.counters import StreamCounters
from moeflux.experts.governor import Decision
from moeflux.experts.predict import PredictionScore
from moeflux.experts.prefetch import GuessCounters
from tiny_checkpoint import CheckpointFolders

PROMPT = "def main():"
N_LAYERS, N_EXPERTS, TOP_K = 4, 8, 2
LoadWithSlots = Callable[..., moeflux.Model]


@pytest.fixture
def load_with_slots(
    tiny_folder: CheckpointFolders, monkeypatch: pytest.MonkeyPatch
) -> LoadWithSlots:
    """Loads the tiny model with a number of slots and settings."""
    monkeypatch.setattr("moeflux.engine.budget.resident_memory", lambda: 0)

    def load(n_slots: int, **settings: object) -> moeflux.Model:
        folder, chosen = tiny_folder("qwen3_5_moe", "mlx"), moeflux.Settings(**settings)  # type: ignore[arg-type]
        with moeflux.load(folder, device="cpu", settings=chosen) as probe:
            needs = probe.memory_needs
        memory = needs.fixed_nbytes + n_slots * needs.slot_nbytes
        return moeflux.load(folder, device="cpu", memory=memory, settings=chosen)

    return load


def finished(generation: Generation) -> GenerationStats:
    *_, last = generation
    assert last.stats is not None
    return last.stats


def n_routed(phase: PhaseStats) -> int:
    return phase.experts_ready + phase.experts_late + phase.experts_missed


# ---- one generation ----


def test_decode_counts_every_routed_expert(load_with_slots: LoadWithSlots) -> None:
    with load_with_slots(6) as model:
        stats = finished(model.generate(PROMPT, max_tokens=9))
    assert stats.decode.n_tokens == 8
    assert n_routed(stats.decode) == 8 * N_LAYERS * TOP_K
    assert 0 < stats.decode.hit_rate < 1


def test_the_times_of_a_phase_add_up(load_with_slots: LoadWithSlots) -> None:
    with load_with_slots(6, prefetch="off") as model:
        stats = finished(model.generate(PROMPT, max_tokens=9))
    for phase in (stats.prefill, stats.decode):
        parts = phase.read_wait_seconds + phase.device_wait_seconds + phase.host_seconds
        assert parts == pytest.approx(phase.seconds)
        assert min(phase.read_wait_seconds, phase.device_wait_seconds, phase.host_seconds) > 0
        assert phase.host_share == pytest.approx(phase.host_seconds / phase.seconds)
        assert 0 < phase.device_seconds < phase.seconds


def test_the_time_of_whoever_takes_the_events_is_not_counted(hybrid: moeflux.Model) -> None:
    pause = threading.Event()
    generation = hybrid.generate(PROMPT, max_tokens=4)
    for _ in generation:
        pause.wait(0.2)
    assert generation.stats.prefill.seconds + generation.stats.decode.seconds < 0.5


def test_bytes_are_those_of_the_reads(load_with_slots: LoadWithSlots) -> None:
    with load_with_slots(6, prefetch="off") as model:
        stats = finished(model.generate(PROMPT, max_tokens=9))
        counters, record = model.runtime.experts.counters, model.runtime.experts.record_nbytes[0]
        assert stats.bytes_read == counters.bytes_read
    assert stats.decode.n_reads == stats.decode.experts_missed
    assert stats.decode.bytes_read == stats.decode.n_reads * record


def test_stalls_are_told_by_layer_of_the_model(load_with_slots: LoadWithSlots) -> None:
    with load_with_slots(2, prefetch="off") as model:
        stats = finished(model.generate(PROMPT, max_tokens=5))
    assert list(stats.decode.stall_seconds) == list(range(N_LAYERS))
    assert min(stats.decode.stall_seconds.values()) > 0


def test_slots_cap_and_weights_are_told(load_with_slots: LoadWithSlots) -> None:
    with load_with_slots(6) as model:
        stats = finished(model.generate(PROMPT, max_tokens=3))
        needs = model.memory_needs
        info = moeflux.inspect(model.path)
    assert (stats.n_slots, stats.n_experts) == (6, N_LAYERS * N_EXPERTS)
    assert stats.memory_cap_nbytes == needs.fixed_nbytes + 6 * needs.slot_nbytes
    assert stats.weight_nbytes_per_token == info.bytes_per_token + info.dense_bytes_per_token
    assert stats.lossy == ()


def test_guesses_are_accounted_for_byte_by_byte(load_with_slots: LoadWithSlots) -> None:
    with load_with_slots(12, prefetch="combined") as model:
        stats = finished(model.generate(PROMPT, max_tokens=30))
    by_name = {found.name: found for found in stats.predictors}
    assert by_name.keys() == {"combined", "next-router", "previous-token"}
    found = by_name["combined"]
    ends = (
        found.useful_nbytes,
        found.late_nbytes,
        found.wasted_nbytes,
        found.cancelled_nbytes,
        found.failed_nbytes,
    )
    assert found.issued_nbytes == sum(ends) > 0
    assert all(0 <= share <= 1 for share in (found.recall, found.miss_recall))
    assert all(0 <= share <= 1 for share in found.precision_by_rank)
    assert by_name["next-router"].issued_nbytes == 0
    assert by_name["next-router"].recall > 0


def test_the_governor_tells_why(load_with_slots: LoadWithSlots) -> None:
    with load_with_slots(12, prefetch="auto") as model:
        stats = finished(model.generate(PROMPT, max_tokens=120))
        again = finished(model.generate(PROMPT, max_tokens=5))
        governor = model.runtime.experts.governor
        assert governor is not None
        assert list(stats.governor) == governor.decisions != []
    assert "of a token's time" in stats.governor[0].reason
    assert again.governor == ()


def test_stats_are_json(load_with_slots: LoadWithSlots) -> None:
    with load_with_slots(12, prefetch="combined") as model:
        stats = finished(model.generate(PROMPT, max_tokens=9))
    found = json.loads(json.dumps(stats.as_dict(1e9)))
    assert found["decode"]["hit_rate"] == stats.decode.hit_rate
    assert found["decode"]["stall_seconds"].keys() == {"0", "1", "2", "3"}
    assert found["bound"] == stats.bound(1e9)
    assert [one["name"] for one in found["predictors"]] == [one.name for one in stats.predictors]


# ---- before the end ----


def test_stats_are_there_before_between_and_after_the_events(hybrid: moeflux.Model) -> None:
    generation = hybrid.generate(PROMPT, max_tokens=6)
    assert generation.stats.generated_tokens == 0
    assert generation.stats.prefill.seconds == 0
    next(generation)
    next(generation)
    middle = generation.stats
    assert (middle.generated_tokens, middle.decode.n_tokens) == (2, 1)
    assert n_routed(middle.decode) == N_LAYERS * TOP_K
    list(generation)
    assert generation.stats.generated_tokens == 6


@pytest.mark.parametrize("error", [KeyboardInterrupt(), moeflux.ReadError("gone")])
def test_an_interrupt_or_an_error_keeps_what_was_spent(
    hybrid: moeflux.Model, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    session = hybrid.session()
    generation = hybrid.generate(PROMPT, max_tokens=9, session=session)
    next(generation)
    next(generation)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(hybrid.runtime.experts, "begin_fetch", fail)
    with pytest.raises(type(error)):
        next(generation)
    stats = generation.stats
    assert (stats.generated_tokens, stats.decode.n_tokens) == (2, 1)
    assert stats.decode.seconds > 0
    assert session.account is None


# ---- several generations ----


def test_a_generation_counts_nothing_of_the_one_before(load_with_slots: LoadWithSlots) -> None:
    with load_with_slots(32) as model:
        first = finished(model.generate(PROMPT, max_tokens=5))
        second = finished(model.generate(PROMPT, max_tokens=5))
    assert first.bytes_read > 0
    assert second.bytes_read == 0
    assert second.decode.hit_rate == 1.0
    assert n_routed(second.decode) == n_routed(first.decode)


def test_interleaved_generations_count_their_own_steps(load_with_slots: LoadWithSlots) -> None:
    with load_with_slots(6, prefetch="off") as model:
        long, short = (model.generate(PROMPT, max_tokens=n) for n in (9, 4))
        other = model.session(64)
        other.prefill([1, 2, 3])
        before = model.runtime.experts.counters.snapshot()
        while next(long, None) is not None:
            next(short, None)
            other.decode(5)
        counters = model.runtime.experts.counters.since(before)
        stats = [long.stats, short.stats]
    assert [n_routed(found.decode) for found in stats] == [
        8 * N_LAYERS * TOP_K,
        3 * N_LAYERS * TOP_K,
    ]
    theirs = sum(found.bytes_read for found in stats)
    assert 0 < theirs < counters.bytes_read


def test_generations_in_threads_count_their_own_steps(load_with_slots: LoadWithSlots) -> None:
    n_tokens = (12, 7, 5)
    with load_with_slots(6, prefetch="off") as model:
        generations = [model.generate(PROMPT, max_tokens=n) for n in n_tokens]
        threads = [threading.Thread(target=list, args=[one]) for one in generations]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = [one.stats for one in generations]
        counters = model.runtime.experts.counters
        assert sum(found.bytes_read for found in stats) == counters.bytes_read
    assert [n_routed(found.decode) for found in stats] == [
        (n - 1) * N_LAYERS * TOP_K for n in n_tokens
    ]
    for found in stats:
        assert found.decode.host_seconds < found.decode.seconds


def test_counting_costs_nothing_per_token(
    hybrid: moeflux.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_calls = []
    monkeypatch.setattr(
        "moeflux.engine.runtime.drive_nbytes", lambda: n_calls.append(1) or len(n_calls)
    )
    counts = []
    for n_tokens in (3, 30):
        n_calls.clear()
        list(hybrid.generate(PROMPT, max_tokens=n_tokens))
        counts.append(len(n_calls))
    assert counts[0] == counts[1]


# ---- the ledger ----


def totals(**changes: object) -> Totals:
    return Totals(StreamCounters.of_layers(2), {}, {}, 0.0, 0.0, 0, **changes)  # type: ignore[arg-type]


def test_the_ledger_charges_whose_turn_it_is() -> None:
    counters, decisions = totals(), []
    ledger = Ledger(lambda: counters, decisions)
    first, second = Account(), Account()
    counters.stream.bytes_read += 1  # nobody's
    ledger.switch(first)
    counters.stream.bytes_read += 10
    counters.stream.stall_seconds[1] += 0.5
    counters.scores["a"] = PredictionScore(n_routed=4, n_right_by_rank=[1, 2])
    ledger.switch(second)
    counters.stream.bytes_read += 100
    counters.scores["a"].n_routed += 3
    counters.scores["a"].n_right_by_rank += [7]
    counters.guesses["a"] = GuessCounters(issued_nbytes=5)
    decisions.append(Decision(1, True, False, 0.1, 0.2, 0.5, "so"))  # noqa: FBT003
    ledger.switch(first)
    counters.stream.bytes_read += 1000
    ledger.settle()
    assert first.spent is not None
    assert second.spent is not None
    assert first.spent.stream.bytes_read == 1010
    assert first.spent.stream.stall_seconds == [0.0, 0.5]
    assert second.spent.stream.bytes_read == 100
    assert second.spent.stream.stall_seconds == [0.0, 0.0]
    assert second.spent.scores["a"] == PredictionScore(n_routed=3, n_right_by_rank=[0, 0, 7])
    assert second.spent.guesses == {"a": GuessCounters(issued_nbytes=5)}
    assert (first.decisions, second.decisions) == ([], decisions)


def test_where_the_system_does_not_tell_nothing_is_claimed(
    hybrid: moeflux.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: psutil.Process) -> None:
        raise psutil.AccessDenied(1)

    monkeypatch.setattr(psutil.Process, "io_counters", refuse, raising=False)
    assert account.drive_nbytes() is None
    stats = finished(hybrid.generate(PROMPT, max_tokens=4))
    assert stats.decode.drive_bytes_read is None
    assert stats.decode.page_cache_bytes_read is None


def test_ranks_that_were_not_tried_have_precision_zero() -> None:
    score = PredictionScore(n_tried_by_rank=[2, 0], n_right_by_rank=[1, 0])
    counters = dataclasses.replace(totals(), scores={"a": score})
    assert predictor_stats(counters)[0].precision_by_rank == (0.5, 0.0)


# ---- what bound the run ----


def phase(*, read: float = 0.0, device: float = 0.0, host: float = 0.0) -> PhaseStats:
    return PhaseStats(
        n_tokens=10,
        seconds=read + device + host,
        stall_seconds={0: read},
        device_wait_seconds=device,
        device_seconds=device,
    )


@pytest.mark.parametrize(
    ("prefill", "decode", "bandwidth", "bound"),
    [
        (phase(), phase(read=3, device=2, host=1), 1e9, "disk"),
        (phase(), phase(read=1, device=2, host=3), 1e9, "host"),
        (phase(), phase(read=1, device=3, host=2), None, "device"),
        # 10 tokens of 2 GB in 4 s are 5 GB/s: half of 10 GB/s.
        (phase(), phase(device=4), 10e9, "memory"),
        (phase(), phase(device=4), 10.1e9, "compute"),
        (phase(device=5), phase(device=4), 1e9, "compute"),
        (phase(read=4), phase(device=5, read=2), 1e9, "disk"),
    ],
)
def test_the_longest_part_bounds_the_run(
    prefill: PhaseStats, decode: PhaseStats, bandwidth: float | None, bound: str
) -> None:
    stats = GenerationStats(1, 11, prefill, decode, 0, weight_nbytes_per_token=2_000_000_000)
    assert stats.bound(bandwidth) == bound


def test_what_did_not_come_from_a_drive_came_from_the_page_cache() -> None:
    assert PhaseStats(bytes_read=100, drive_bytes_read=30).page_cache_bytes_read == 70
    assert PhaseStats(bytes_read=100, drive_bytes_read=130).page_cache_bytes_read == 0
    assert PhaseStats(bytes_read=100).page_cache_bytes_read is None


def test_a_phase_without_tokens_divides_by_nothing() -> None:
    empty = PhaseStats()
    assert (empty.tokens_per_second, empty.hit_rate, empty.host_share) == (0.0, 0.0, 0.0)
