"""The replay of route traces: counts that follow from the trace."""

from __future__ import annotations

import random

import pytest

from moeflux.experts.eviction import POLICY_NAMES, make_policy
from moeflux.experts.floor import SlotFloorError
from moeflux.experts.lease import Demand
from moeflux.experts.replay import ReplaySettings, SweepRow, replay, sweep
from moeflux.experts.residency import ExpertResidency
from moeflux.experts.slots import SlotPool
from moeflux.experts.trace import TokenRoutes, Trace, TraceHeader

N_LAYERS, N_EXPERTS, TOP_K, NBYTES = 3, 16, 2, 100
HEADER = TraceHeader("test", N_LAYERS, N_EXPERTS, TOP_K, (NBYTES,) * N_LAYERS, n_predicted=2)
ALL = N_LAYERS * N_EXPERTS
NO_LIMIT = 1 << 40


def decode(*routes: tuple[tuple[int, ...], ...], sequence: int = 0) -> list[TokenRoutes]:
    """Decode steps; what the router of the layer before predicts is right in its first guess."""
    return [
        TokenRoutes(
            sequence,
            position,
            position,
            prefill=False,
            experts=experts,
            predicted=((), *((row[0], (row[1] + 1) % N_EXPERTS) for row in experts[1:])),
        )
        for position, experts in enumerate(routes)
    ]


def skewed(n_tokens: int, seed: int = 1) -> Trace:
    """Some experts of each layer are popular, which ones shifts slowly."""
    rng = random.Random(seed)
    routes = []
    for token in range(n_tokens):
        rows = []
        for layer in range(N_LAYERS):
            row: dict[int, None] = {}
            while len(row) < TOP_K:
                rank = min(int(rng.paretovariate(0.7)) - 1, N_EXPERTS - 1)
                row[(rank * 5 + layer + token // 100) % N_EXPERTS] = None
            rows.append(tuple(row))
        routes.append(tuple(rows))
    return Trace(HEADER, tuple(decode(*routes)))


ONE = ((1, 2), (3, 4), (5, 6))
TWO = ((1, 7), (3, 8), (5, 9))


def test_the_first_use_of_every_expert_is_missed_and_the_next_is_ready() -> None:
    result = replay(Trace(HEADER, tuple(decode(ONE, ONE, TWO))), ReplaySettings(ALL))
    assert result.decode.n_missed == [3, 3, 3]
    assert result.decode.n_ready == [3, 3, 3]
    assert result.read_nbytes == 9 * NBYTES


def test_a_token_at_the_floor_evicts_every_layer_before_it_comes_again() -> None:
    result = replay(Trace(HEADER, tuple(decode(ONE, ONE, ONE))), ReplaySettings(TOP_K))
    assert result.decode.hit_rate == 0.0


def test_with_all_experts_in_memory_all_policies_count_the_same() -> None:
    rows = sweep(skewed(60), [ALL])
    assert len({(row.hit_rate, row.read_nbytes) for row in rows}) == 1


def test_a_larger_pool_hits_more() -> None:
    rates = [row.hit_rate for row in sweep(skewed(150), [4, 12, 24, ALL], ["lfru"])]
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]


def test_no_policy_hits_more_often_than_belady() -> None:
    for n_slots in (4, 9, 17, 30):
        rates = {row.policy: row.hit_rate for row in sweep(skewed(120), [n_slots])}
        assert max(rates.values()) == rates["belady"]


def test_a_sweep_has_a_row_per_policy_and_size() -> None:
    rows = sweep(Trace(HEADER, tuple(decode(ONE, ONE))), [6, 12], ["lru", "lfu"])
    assert [(row.policy, row.n_slots) for row in rows] == [
        ("lru", 6), ("lru", 12), ("lfu", 6), ("lfu", 12),
    ]  # fmt: skip
    assert rows[1] == SweepRow("lru", 12, 12 / ALL, 0.5, 0.5, 6 * NBYTES)


def test_the_same_trace_gives_the_same_counts() -> None:
    settings = ReplaySettings(12, "lfru", "combined", NO_LIMIT, window_nbytes=250)
    assert replay(skewed(80), settings) == replay(skewed(80), settings)


def test_an_oracle_with_time_enough_leaves_misses_to_the_first_layer_only() -> None:
    settings = ReplaySettings(12, predictor="oracle", limit_nbytes=NO_LIMIT)
    result = replay(skewed(80), settings)
    assert sum(result.decode.n_missed + result.decode.n_late) == 0
    assert result.scores["next-router"].recall == 1.0


def test_an_oracle_without_time_makes_its_guesses_late() -> None:
    settings = ReplaySettings(12, predictor="oracle", limit_nbytes=NO_LIMIT, window_nbytes=0)
    result = replay(skewed(80), settings)
    assert sum(result.decode.n_late) > 0
    assert result.guesses["next-router"].useful_nbytes == 0


def test_the_recorded_next_router_is_replayed() -> None:
    trace = Trace(HEADER, tuple(decode(ONE)))
    settings = ReplaySettings(12, predictor="next-router", limit_nbytes=NO_LIMIT)
    result = replay(trace, settings)
    assert result.decode.n_ready == [0, 1, 1]
    assert result.scores["next-router"].recall == 2 / 6
    assert result.guesses["next-router"].wasted_nbytes == 2 * NBYTES


def test_the_previous_token_is_replayed() -> None:
    trace = Trace(HEADER, tuple(decode(ONE, TWO)))
    settings = ReplaySettings(8, predictor="previous-token", limit_nbytes=NO_LIMIT)
    assert replay(trace, settings).scores["previous-token"].n_recalled == 3


def test_guesses_are_capped() -> None:
    settings = ReplaySettings(12, predictor="oracle", limit_nbytes=NBYTES)
    result = replay(Trace(HEADER, tuple(decode(ONE))), settings)
    assert result.decode.n_ready == [1, 1, 1]


def test_a_guess_that_has_begun_is_not_cancelled_and_all_others_are() -> None:
    trace = Trace(HEADER, tuple(decode(ONE, ((9, 10), (11, 12), (13, 14)))))
    settings = ReplaySettings(4, "lru", "previous-token", NO_LIMIT, window_nbytes=NBYTES // 2)
    guesses = replay(trace, settings).guesses["previous-token"]
    assert guesses.issued_nbytes == 2 * NBYTES
    assert (guesses.wasted_nbytes, guesses.cancelled_nbytes) == (NBYTES, NBYTES)


def test_a_guess_half_read_does_not_help_the_next_layer() -> None:
    settings = ReplaySettings(12, "lru", "oracle", NO_LIMIT, window_nbytes=NBYTES * 3 // 5)
    result = replay(Trace(HEADER, tuple(decode(ONE))), settings)
    assert (result.decode.n_ready, result.decode.n_late) == ([0, 0, 0], [2, 2, 2])


def test_a_window_delivers_guesses_best_first() -> None:
    settings = ReplaySettings(12, "lru", "oracle", NO_LIMIT, window_nbytes=NBYTES * 3 // 2)
    result = replay(Trace(HEADER, tuple(decode(ONE))), settings)
    assert (result.decode.n_ready, result.decode.n_late) == ([1, 1, 1], [1, 1, 1])


def test_a_new_sequence_starts_without_predictions() -> None:
    settings = ReplaySettings(ALL, predictor="previous-token", limit_nbytes=NO_LIMIT)
    one = replay(Trace(HEADER, tuple(decode(ONE) + decode(ONE, sequence=0))), settings)
    two = replay(Trace(HEADER, tuple(decode(ONE) + decode(ONE, sequence=1))), settings)
    assert one.scores["previous-token"].n_recalled == 6
    assert two.scores["previous-token"].n_recalled == 0


def chunk(*routes: tuple[tuple[int, ...], ...]) -> list[TokenRoutes]:
    return [
        TokenRoutes(0, position, 0, prefill=True, experts=experts)
        for position, experts in enumerate(routes)
    ]


def test_prefill_reads_the_union_of_a_chunk_once() -> None:
    result = replay(Trace(HEADER, tuple(chunk(ONE, TWO, ONE))), ReplaySettings(6))
    assert result.prefill.n_missed == [3, 3, 3]
    assert sum(result.decode.n_demands) == 0


def test_prefill_runs_in_waves_that_fit_half_of_the_slots() -> None:
    wide = tuple(tuple((first, first + 1) for _ in range(N_LAYERS)) for first in range(0, 12, 2))
    result = replay(Trace(HEADER, tuple(chunk(*wide))), ReplaySettings(8, wave_width=99))
    assert result.prefill.n_demands == [3, 3, 3]
    assert result.prefill.n_missed == [12, 12, 12]


def test_a_prefill_leaves_what_decode_has_in_memory() -> None:
    wide = tuple(tuple((first, first + 1) for _ in range(N_LAYERS)) for first in range(6, 16, 2))
    tokens = [*decode(ONE, ONE), *chunk(*wide), *decode(ONE)]
    result = replay(Trace(HEADER, tuple(tokens)), ReplaySettings(10, wave_width=2))
    assert result.decode.n_missed == [2, 2, 2]


def test_fewer_slots_than_top_k_are_refused() -> None:
    with pytest.raises(SlotFloorError, match=r"200 bytes \(2 slots of 100 bytes\), got 100"):
        replay(skewed(1), ReplaySettings(1))


def test_an_unknown_predictor_is_refused() -> None:
    with pytest.raises(ValueError, match=r"predictor must be one of none, .*, got 'magic'"):
        ReplaySettings(8, predictor="magic")


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_replay_counts_what_a_plain_decode_loop_counts(policy: str) -> None:
    trace = skewed(100)
    pool = SlotPool(14, TOP_K, make_policy(policy, 14, TOP_K, N_LAYERS))
    n_missed = 0
    for token in trace.tokens:
        for layer, experts in enumerate(token.experts):
            pool.release_all()
            lease = pool.acquire(layer, experts)
            for entry in lease.missed:
                pool.finished(entry.slot)
            n_missed += len(lease.missed)
    result = replay(trace, ReplaySettings(14, policy))
    assert sum(result.decode.n_missed) == n_missed


def test_replay_counts_what_a_residency_with_prompt_reads_counts() -> None:
    trace = skewed(100)
    residency = ExpertResidency(
        SlotPool(14, TOP_K, make_policy("lfru", 14, TOP_K, N_LAYERS)), HEADER.record_nbytes
    )
    for token in trace.tokens:
        for layer, experts in enumerate(token.experts):
            residency.pool.release_all()
            for entry in residency.demand(layer, experts).read:
                residency.finished(entry.slot)
    assert replay(trace, ReplaySettings(14)).decode == residency.counts[Demand.DECODE]
