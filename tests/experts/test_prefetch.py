"""The prefetch plan: what is read for a guess, and what became of it."""

from __future__ import annotations

import pytest

from moeflux.experts.eviction import LRU
from moeflux.experts.lease import ExpertSlot, SlotStateError
from moeflux.experts.prefetch import Consumption, GuessCounters, Prefetch
from moeflux.experts.slots import SlotPool, SlotState

NBYTES = 100
N_LAYERS = 4
NO_LIMIT = 1 << 40


class Bench:
    """A pool and its prefetch."""

    def __init__(self, n_slots: int = 8, floor: int = 2, nbytes: int = NBYTES) -> None:
        self.pool = SlotPool(n_slots, floor, LRU())
        self.prefetch = Prefetch(self.pool, [nbytes] * N_LAYERS)

    def dispatch(
        self, layer: int, ranked: list[int], limit_nbytes: int = NO_LIMIT
    ) -> tuple[list[int], list[int]]:
        """Experts to read and to cancel."""
        plan = self.prefetch.dispatch(layer, ranked, limit_nbytes, "test")
        return [entry.expert for entry in plan.read], [entry.expert for entry in plan.cancel]

    def finish(self, layer: int, *experts: int) -> None:
        for expert in experts:
            slot = self.slot(layer, expert)
            self.pool.finished(slot)
            self.prefetch.finished(slot)

    def lose(self, layer: int, expert: int, *, cancelled: bool) -> None:
        slot = self.slot(layer, expert)
        self.pool.lost(slot)
        (self.prefetch.cancelled if cancelled else self.prefetch.failed)(slot)

    def route(self, layer: int, *experts: int) -> Consumption:
        """Demand and consume; what is missed is read at once."""
        lease = self.pool.acquire(layer, experts)
        consumption = self.prefetch.consume(lease)
        for entry in lease.missed:
            self.pool.finished(entry.slot)
        self.pool.release(lease)
        return consumption

    def slot(self, layer: int, expert: int) -> int:
        slot = self.pool.find(layer, expert)
        assert slot is not None
        return slot

    @property
    def counters(self) -> GuessCounters:
        return self.prefetch.counters["test"]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def cancelled(consumption: Consumption) -> list[int]:
    return [entry.expert for entry in consumption.cancel]


# One plan at a time.


def test_guesses_are_read_best_first(bench: Bench) -> None:
    assert bench.dispatch(1, [7, 3, 5]) == ([7, 3, 5], [])
    assert bench.prefetch.layer == 1


def test_predicted_and_routed_experts_match_as_sets(bench: Bench) -> None:
    bench.dispatch(1, [7, 3, 5])
    bench.finish(1, 5, 7, 3)
    assert bench.route(1, 5, 9, 7).supplied == {5, 7}


def test_consuming_ends_the_plan(bench: Bench) -> None:
    bench.dispatch(1, [7])
    bench.finish(1, 7)
    bench.route(1, 7)
    assert bench.prefetch.layer is None
    assert bench.route(1, 7).supplied == set()


def test_consuming_for_another_layer_ends_the_plan_and_supplies_nothing(bench: Bench) -> None:
    bench.route(1, 7)
    bench.dispatch(2, [7, 8])
    bench.finish(2, 7)
    consumption = bench.route(1, 7)
    assert consumption.supplied == set()
    assert cancelled(consumption) == [8]
    assert bench.prefetch.layer is None


def test_a_guess_whose_read_failed_supplies_nothing(bench: Bench) -> None:
    bench.dispatch(1, [7, 8])
    bench.finish(1, 8)
    bench.lose(1, 7, cancelled=False)
    assert bench.route(1, 7, 8).supplied == {8}


def test_an_expert_whose_guess_failed_is_missed_and_read_again(bench: Bench) -> None:
    bench.dispatch(1, [7])
    bench.lose(1, 7, cancelled=False)
    assert [entry.expert for entry in bench.pool.acquire(1, [7]).missed] == [7]


def test_a_new_plan_drains_the_old_one(bench: Bench) -> None:
    bench.dispatch(1, [7, 8])
    bench.finish(1, 7)
    assert bench.dispatch(2, [4]) == ([4], [8])
    assert bench.route(1, 7).supplied == set()


def test_a_new_plan_for_the_same_layer_keeps_what_both_guess(bench: Bench) -> None:
    bench.dispatch(1, [7, 8])
    assert bench.dispatch(1, [8, 9]) == ([9], [7])
    bench.finish(1, 8)
    assert bench.route(1, 8).supplied == {8}


def test_a_new_plan_for_another_layer_keeps_nothing(bench: Bench) -> None:
    bench.dispatch(1, [7])
    assert bench.dispatch(2, [7]) == ([7], [7])


def test_invalidating_drains_and_forgets(bench: Bench) -> None:
    bench.dispatch(1, [7, 8])
    bench.finish(1, 7)
    assert bench.prefetch.invalidate() == (ExpertSlot(1, 8, bench.slot(1, 8)),)
    assert bench.prefetch.layer is None
    assert bench.route(1, 7).supplied == set()


def test_invalidating_names_reads_of_spent_guesses_that_have_not_ended(bench: Bench) -> None:
    bench.dispatch(1, [7])
    bench.dispatch(2, [4])
    assert {entry.expert for entry in bench.prefetch.invalidate()} == {7, 4}


def test_closing_drains_and_refuses_new_plans(bench: Bench) -> None:
    bench.dispatch(1, [7])
    assert [entry.expert for entry in bench.prefetch.close()] == [7]
    with pytest.raises(SlotStateError, match="prefetch is closed"):
        bench.dispatch(1, [8])


def test_nothing_is_read_past_the_last_layer_but_the_old_plan_is_drained(bench: Bench) -> None:
    bench.dispatch(1, [7])
    assert bench.dispatch(N_LAYERS, [4]) == ([], [7])
    assert bench.prefetch.layer is None


# What is read.


def test_guesses_under_way_are_capped_in_bytes(bench: Bench) -> None:
    assert bench.dispatch(1, [1, 2, 3, 4], limit_nbytes=2 * NBYTES + 99) == ([1, 2], [])
    assert bench.prefetch.reading_nbytes == 2 * NBYTES


def test_reads_of_spent_guesses_count_against_the_cap_until_they_end(bench: Bench) -> None:
    bench.dispatch(1, [1, 2])
    assert bench.dispatch(2, [5, 6], limit_nbytes=3 * NBYTES) == ([5], [1, 2])
    bench.lose(1, 1, cancelled=True)
    bench.lose(1, 2, cancelled=True)
    assert bench.dispatch(2, [5, 6, 7], limit_nbytes=3 * NBYTES) == ([6, 7], [])


def test_a_guess_that_was_demanded_no_longer_counts_against_the_cap(bench: Bench) -> None:
    bench.dispatch(1, [1, 2])
    bench.pool.release(lease := bench.pool.acquire(1, [1, 2]))
    bench.prefetch.consume(lease)
    assert bench.dispatch(2, [5], limit_nbytes=NBYTES) == ([5], [])


def test_no_window_reads_nothing(bench: Bench) -> None:
    assert bench.dispatch(1, [1], limit_nbytes=0) == ([], [])


def test_experts_in_memory_or_under_way_are_not_read_again(bench: Bench) -> None:
    bench.route(1, 4)
    bench.dispatch(1, [5])
    assert bench.dispatch(1, [4, 5, 6]) == ([6], [])
    assert bench.counters.n_present == 2


def test_an_expert_named_twice_is_read_once(bench: Bench) -> None:
    assert bench.dispatch(1, [4, 4]) == ([4], [])


def test_guesses_stop_where_the_floor_begins() -> None:
    bench = Bench(n_slots=5, floor=2)
    assert bench.dispatch(1, [1, 2, 3, 4, 5]) == ([1, 2, 3], [])


def test_a_guess_does_not_evict_an_expert_that_the_same_plan_needs() -> None:
    bench = Bench(n_slots=4, floor=1)
    for expert in (1, 2, 3, 4):
        bench.route(1, expert)
    read, _ = bench.dispatch(1, [8, 9, 1])
    assert 8 in read
    assert bench.pool.find(1, 1) is not None


def test_a_spent_guess_in_memory_is_the_first_to_go() -> None:
    bench = Bench(n_slots=3, floor=1)
    bench.dispatch(1, [1])
    bench.finish(1, 1)
    bench.route(0, 5)
    bench.route(0, 6)
    bench.route(1, 7)
    assert bench.pool.find(1, 1) is None
    assert bench.pool.find(0, 5) is not None


# What is cancelled.


def test_guesses_that_were_not_routed_to_are_cancelled_when_decode_passes(bench: Bench) -> None:
    bench.dispatch(1, [7, 8, 9])
    bench.finish(1, 9)
    assert cancelled(bench.route(1, 2)) == [7, 8]


def test_a_guess_that_is_routed_to_while_being_read_is_not_cancelled(bench: Bench) -> None:
    bench.dispatch(1, [7, 8])
    lease = bench.pool.acquire(1, [7])
    assert [entry.expert for entry in bench.prefetch.consume(lease).cancel] == [8]
    assert bench.pool.state(lease.slots[7]) is SlotState.LOADING


def test_a_cancelled_guess_keeps_its_slot_until_the_end_of_the_read_is_reported() -> None:
    bench = Bench(n_slots=3, floor=2)
    bench.dispatch(1, [7])
    slot = bench.slot(1, 7)
    bench.route(1, 2)
    for expert in range(20, 30):
        bench.route(2, expert)
    assert bench.slot(1, 7) == slot
    bench.lose(1, 7, cancelled=True)
    assert bench.pool.find(1, 7) is None


def test_a_cancelled_guess_that_delivers_all_the_same_stays_in_memory(bench: Bench) -> None:
    bench.dispatch(1, [7])
    bench.route(1, 2)
    bench.finish(1, 7)
    assert [entry.expert for entry in bench.pool.acquire(1, [7]).ready] == [7]


# Where the bytes went.


def test_bytes_of_a_guess_in_memory_in_time_are_useful(bench: Bench) -> None:
    bench.dispatch(1, [7])
    bench.finish(1, 7)
    bench.route(1, 7)
    assert bench.counters == GuessCounters(issued_nbytes=NBYTES, useful_nbytes=NBYTES)


def test_bytes_of_a_guess_routed_to_while_being_read_are_late(bench: Bench) -> None:
    bench.dispatch(1, [7])
    bench.route(1, 7)
    bench.finish(1, 7)
    assert bench.counters == GuessCounters(issued_nbytes=NBYTES, late_nbytes=NBYTES)


def test_bytes_of_a_guess_not_routed_to_are_wasted(bench: Bench) -> None:
    bench.dispatch(1, [7])
    bench.finish(1, 7)
    bench.route(1, 2)
    assert bench.counters == GuessCounters(issued_nbytes=NBYTES, wasted_nbytes=NBYTES)


def test_bytes_of_a_cancelled_guess_that_delivers_all_the_same_are_wasted(bench: Bench) -> None:
    bench.dispatch(1, [7])
    bench.route(1, 2)
    assert bench.counters.wasted_nbytes == 0
    bench.finish(1, 7)
    assert bench.counters == GuessCounters(issued_nbytes=NBYTES, wasted_nbytes=NBYTES)


def test_bytes_of_a_guess_cancelled_in_time_are_not_wasted(bench: Bench) -> None:
    bench.dispatch(1, [7])
    bench.route(1, 2)
    bench.lose(1, 7, cancelled=True)
    assert bench.counters == GuessCounters(issued_nbytes=NBYTES, cancelled_nbytes=NBYTES)


def test_a_guess_cancelled_by_others_is_counted_once(bench: Bench) -> None:
    bench.dispatch(1, [7])
    bench.lose(1, 7, cancelled=True)
    assert bench.route(1, 7).supplied == set()
    assert bench.counters == GuessCounters(issued_nbytes=NBYTES, cancelled_nbytes=NBYTES)


def test_bytes_of_a_failed_guess_are_counted_as_failed(bench: Bench) -> None:
    bench.dispatch(1, [7])
    bench.lose(1, 7, cancelled=False)
    bench.route(1, 7)
    assert bench.counters == GuessCounters(issued_nbytes=NBYTES, failed_nbytes=NBYTES)


def test_a_spent_guess_that_the_next_token_routes_to_in_flight_is_late(bench: Bench) -> None:
    bench.dispatch(1, [7])
    bench.route(1, 2)
    assert bench.route(1, 7).supplied == {7}
    bench.finish(1, 7)
    assert bench.counters == GuessCounters(issued_nbytes=NBYTES, late_nbytes=NBYTES)


def test_a_guess_evicted_before_its_layer_came_is_wasted() -> None:
    bench = Bench(n_slots=3, floor=2)
    bench.dispatch(1, [7])
    bench.finish(1, 7)
    bench.pool.release(lease := bench.pool.acquire(0, [1, 2, 3]))
    for entry in lease.missed:
        bench.pool.finished(entry.slot)
    assert bench.route(1, 7).supplied == set()
    assert bench.counters == GuessCounters(issued_nbytes=NBYTES, wasted_nbytes=NBYTES)


def test_a_guess_evicted_before_its_layer_came_can_be_guessed_again() -> None:
    bench = Bench(n_slots=3, floor=2)
    bench.dispatch(1, [7])
    bench.finish(1, 7)
    bench.pool.release(lease := bench.pool.acquire(0, [1, 2, 3]))
    for entry in lease.missed:
        bench.pool.finished(entry.slot)
    bench.pool.release(bench.pool.acquire(0, [1]))
    assert bench.dispatch(1, [7], limit_nbytes=NBYTES) == ([7], [])
    assert bench.counters == GuessCounters(issued_nbytes=2 * NBYTES, wasted_nbytes=NBYTES)


def test_counters_are_kept_per_predictor(bench: Bench) -> None:
    bench.prefetch.dispatch(1, [1], NO_LIMIT, "first")
    bench.prefetch.dispatch(2, [2, 3], NO_LIMIT, "second")
    issued = {name: counter.issued_nbytes for name, counter in bench.prefetch.counters.items()}
    assert issued == {"first": NBYTES, "second": 2 * NBYTES}


def test_records_of_unequal_layers_are_counted_by_their_own_size() -> None:
    prefetch = Prefetch(SlotPool(8, 1, LRU()), [10, 30])
    prefetch.dispatch(1, [1, 2], 70, "test")
    assert prefetch.reading_nbytes == 60
