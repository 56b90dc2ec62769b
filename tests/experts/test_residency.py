"""The joined state: demands, guesses, ends of reads, and teardown."""

from __future__ import annotations

import pytest

from moeflux.experts.eviction import LRU
from moeflux.experts.lease import Demand, ExpertSlot, Lease, SlotsExhaustedError, SlotStateError
from moeflux.experts.predict import Combined, NextRouter, Predictor, PreviousToken
from moeflux.experts.residency import DemandPlan, ExpertResidency
from moeflux.experts.slots import SlotPool, SlotState

NBYTES = 10
N_LAYERS = 4
NO_LIMIT = 1 << 40


def make_residency(
    n_slots: int = 12, floor: int = 2, predictor: Predictor | None = None
) -> ExpertResidency:
    return ExpertResidency(SlotPool(n_slots, floor, LRU()), [NBYTES] * N_LAYERS, predictor)


@pytest.fixture
def residency() -> ExpertResidency:
    return make_residency(predictor=PreviousToken(N_LAYERS))


def experts(reads: tuple[ExpertSlot, ...]) -> list[int]:
    return [entry.expert for entry in reads]


def demand(residency: ExpertResidency, layer: int, *routed: int) -> DemandPlan:
    """Demand, and let its reads end well."""
    plan = residency.demand(layer, routed)
    for entry in (*plan.read, *plan.promote):
        residency.finished(entry.slot)
    return plan


def visit(residency: ExpertResidency, layer: int, *routed: int) -> None:
    residency.release(demand(residency, layer, *routed).lease)


def cancel_all(residency: ExpertResidency, reads: tuple[ExpertSlot, ...]) -> None:
    for entry in reads:
        residency.cancelled(entry.slot)


# A token's way.


def test_a_demand_says_what_to_read_promote_and_cancel(residency: ExpertResidency) -> None:
    visit(residency, 1, 3, 4, 5)
    residency.pool.clear()
    residency.speculate(1, NO_LIMIT)
    plan = residency.demand(1, [4, 9])
    assert experts(plan.read) == [9]
    assert experts(plan.promote) == [4]
    assert experts(plan.cancel) == [3, 5]


def test_what_is_ready_is_not_read(residency: ExpertResidency) -> None:
    visit(residency, 0, 1)
    assert residency.demand(0, [1]).read == ()


def test_the_routing_of_a_layer_is_what_its_next_guess_reads(residency: ExpertResidency) -> None:
    visit(residency, 1, 8, 2)
    residency.pool.clear()
    assert experts(residency.speculate(1, NO_LIMIT).read) == [8, 2]


def test_nothing_is_guessed_past_the_last_layer(residency: ExpertResidency) -> None:
    visit(residency, N_LAYERS - 1, 8)
    assert residency.speculate(N_LAYERS, NO_LIMIT).read == ()


def test_nothing_is_guessed_without_a_predictor() -> None:
    residency = make_residency()
    visit(residency, 1, 8)
    residency.pool.clear()
    assert residency.speculate(1, NO_LIMIT).read == ()


def test_guesses_of_the_next_layer_end_when_decode_demands_it() -> None:
    router = NextRouter(N_LAYERS)
    residency = make_residency(predictor=router)
    router.offer(1, [5, 6])
    assert experts(residency.speculate(1, NO_LIMIT).read) == [5, 6]
    assert experts(demand(residency, 1, 6).cancel) == [5]
    assert residency.prefetch.layer is None


def test_a_guess_cancelled_but_demanded_since_is_submitted_again(
    residency: ExpertResidency,
) -> None:
    visit(residency, 1, 3)
    residency.pool.clear()
    (read,) = residency.speculate(1, NO_LIMIT).read
    visit(residency, 1, 7)
    assert residency.demand(1, [3]).promote == (read,)
    residency.cancelled(read.slot)
    assert residency.retry(read.slot) == read
    residency.finished(read.slot)
    assert residency.pool.state(read.slot) is SlotState.READY


def test_too_few_slots_leave_the_plan_in_force() -> None:
    residency = make_residency(n_slots=4, floor=2, predictor=PreviousToken(N_LAYERS))
    visit(residency, 1, 3)
    residency.pool.clear()
    residency.speculate(1, NO_LIMIT)
    with pytest.raises(SlotsExhaustedError):
        residency.demand(0, [1, 2, 3, 4])
    assert residency.prefetch.layer == 1


# Counting.


def test_demands_are_counted_by_layer_and_by_how_experts_were_found(
    residency: ExpertResidency,
) -> None:
    visit(residency, 1, 3, 4)
    residency.pool.clear()
    residency.speculate(1, 2 * NBYTES)
    residency.finished(residency.pool.loading[0].slot)
    visit(residency, 1, 3, 4, 5)
    counts = residency.counts[Demand.DECODE]
    assert (counts.n_ready[1], counts.n_late[1], counts.n_missed[1]) == (1, 1, 3)
    assert (counts.n_demands, counts.n_stalled) == ([0, 2, 0, 0], [0, 2, 0, 0])
    assert counts.hit_rate == 1 / 5
    assert counts.stall_rate == 1.0


def test_a_demand_that_finds_all_experts_ready_does_not_stall(residency: ExpertResidency) -> None:
    visit(residency, 1, 3)
    visit(residency, 1, 3)
    assert residency.counts[Demand.DECODE].stall_rate == 0.5


def test_prefill_is_counted_apart_and_teaches_no_predictor(residency: ExpertResidency) -> None:
    plan = residency.demand(0, [1, 2], Demand.PREFILL)
    assert len(plan.read) == 2
    assert residency.counts[Demand.PREFILL].n_missed == [2, 0, 0, 0]
    assert sum(residency.counts[Demand.DECODE].n_demands) == 0
    assert residency.scores == {}
    for entry in plan.read:
        residency.failed(entry.slot)
    residency.release(plan.lease)
    assert residency.speculate(0, NO_LIMIT).read == ()


def test_what_a_guess_supplied_is_a_would_be_miss(residency: ExpertResidency) -> None:
    visit(residency, 1, 3, 4)
    residency.pool.clear()
    residency.speculate(1, NBYTES)
    demand(residency, 1, 3, 4)
    score = residency.scores["previous-token"]
    assert (score.n_would_miss, score.n_would_miss_recalled) == (2 + 2, 2)


def test_the_parts_of_a_combined_predictor_are_scored_too() -> None:
    router, previous = NextRouter(N_LAYERS), PreviousToken(N_LAYERS)
    residency = make_residency(predictor=Combined((router, previous)))
    visit(residency, 0, 1, 2)
    router.offer(0, [2, 9])
    visit(residency, 0, 2, 3)
    recalls = {name: score.n_recalled for name, score in residency.scores.items()}
    assert recalls == {"combined": 1, "next-router": 1, "previous-token": 1}


# Prefill waves.


def test_waves_cover_the_distinct_experts_once(residency: ExpertResidency) -> None:
    waves = residency.waves(0, [5, 1, 5, 4, 2, 1, 3], width=2)
    assert waves == [(1, 2), (3, 4), (5,)]


def test_experts_in_memory_are_in_the_first_waves(residency: ExpertResidency) -> None:
    visit(residency, 0, 4, 9)
    assert residency.waves(0, [1, 4, 2, 9, 3], width=2) == [(4, 9), (1, 2), (3,)]


def test_overlapped_waves_find_every_expert_that_was_in_memory() -> None:
    residency = make_residency(n_slots=6)
    visit(residency, 0, 3, 7, 11)
    before: Lease | None = None
    found = []
    for wave in residency.waves(0, range(12), width=3):
        plan = residency.demand(0, wave, Demand.PREFILL)
        found += experts(plan.lease.ready)
        for entry in plan.read:
            residency.finished(entry.slot)
        if before is not None:
            residency.release(before)
        before = plan.lease
    assert found == [3, 7, 11]


def test_a_wave_of_no_width_is_refused(residency: ExpertResidency) -> None:
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        residency.waves(0, [1], width=0)


# Errors and teardown.


def test_after_a_failed_read_the_other_experts_of_the_demand_are_usable(
    residency: ExpertResidency,
) -> None:
    plan = residency.demand(0, [1, 2])
    residency.failed(plan.lease.slots[1])
    residency.finished(plan.lease.slots[2])
    residency.release(plan.lease)
    again = residency.demand(0, [1, 2])
    assert (experts(again.lease.ready), experts(again.read)) == ([2], [1])


def test_an_error_in_the_middle_of_a_token_leaves_nothing_behind(
    residency: ExpertResidency,
) -> None:
    for layer in range(N_LAYERS):
        visit(residency, layer, 1, 2)
    residency.pool.clear()
    demand(residency, 0, 5)
    residency.speculate(1, NO_LIMIT)
    broken = residency.demand(1, [6, 7])
    residency.failed(broken.lease.slots[6])
    reads = residency.invalidate()
    assert set(experts(reads)) == {1, 2, 7}
    cancel_all(residency, reads)
    residency.pool.release_all()
    assert residency.drained
    assert residency.pool.takeable == residency.pool.n_slots
    for layer in range(N_LAYERS):
        assert residency.speculate(layer, NO_LIMIT).read == ()
        visit(residency, layer, 3, 4)


def test_draining_names_demanded_reads_as_well_as_guesses(residency: ExpertResidency) -> None:
    visit(residency, 2, 8)
    residency.pool.clear()
    residency.demand(1, [3])
    residency.speculate(2, NO_LIMIT)
    assert set(experts(residency.drain())) == {3, 8}
    assert residency.prefetch.layer is None


def test_draining_keeps_what_was_predicted(residency: ExpertResidency) -> None:
    visit(residency, 1, 8)
    residency.pool.clear()
    residency.drain()
    assert experts(residency.speculate(1, NO_LIMIT).read) == [8]


def test_it_is_not_drained_while_a_read_is_under_way_or_a_slot_pinned(
    residency: ExpertResidency,
) -> None:
    lease = residency.demand(0, [1]).lease
    assert not residency.drained
    residency.finished(lease.slots[1])
    assert not residency.drained
    residency.release(lease)
    assert residency.drained


def test_slots_cannot_be_freed_while_a_guess_is_being_read(residency: ExpertResidency) -> None:
    visit(residency, 1, 8)
    residency.pool.clear()
    residency.speculate(1, NO_LIMIT)
    reads = residency.close()
    with pytest.raises(SlotStateError, match="1 reads under way"):
        residency.pool.close()
    cancel_all(residency, reads)
    residency.pool.close()


def test_slots_cannot_be_freed_while_the_device_may_read_them(residency: ExpertResidency) -> None:
    demand(residency, 0, 1)
    assert residency.close() == ()
    with pytest.raises(SlotStateError, match="1 leases"):
        residency.pool.close()
    residency.pool.release_all()
    residency.pool.close()


def test_nothing_is_demanded_or_guessed_after_closing(residency: ExpertResidency) -> None:
    residency.close()
    with pytest.raises(SlotStateError, match="closed"):
        residency.demand(0, [1])
    with pytest.raises(SlotStateError, match="closed"):
        residency.speculate(0, NO_LIMIT)


def test_reads_that_end_after_closing_are_still_accepted(residency: ExpertResidency) -> None:
    lease = residency.demand(0, [1, 2]).lease
    residency.close()
    residency.finished(lease.slots[1])
    residency.cancelled(lease.slots[2])
    residency.pool.release_all()
    residency.pool.close()
