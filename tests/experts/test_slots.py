"""The slot pool: who owns a slot, and who may take it."""

from __future__ import annotations

import pytest
from slot_pools import guess, in_memory, load, make_pool, visit

from moeflux.experts.lease import SlotsExhaustedError, SlotStateError
from moeflux.experts.slots import Demand, ExpertSlot, Lease, SlotState

# Demand.


def test_an_absent_expert_is_missed_and_gets_a_slot_to_load_into() -> None:
    pool = make_pool()
    lease = pool.acquire(2, [5])
    assert (lease.ready, lease.late) == ((), ())
    (entry,) = lease.missed
    assert entry == ExpertSlot(2, 5, lease.slots[5])
    assert pool.state(entry.slot) is SlotState.LOADING


def test_a_loaded_expert_is_found_ready() -> None:
    pool = make_pool()
    visit(pool, 0, 1)
    lease = pool.acquire(0, [1])
    assert [entry.expert for entry in lease.ready] == [1]
    assert (lease.late, lease.missed) == ((), ())


def test_an_expert_being_read_for_a_guess_is_found_late() -> None:
    pool = make_pool()
    slot = guess(pool, 0, 1)
    assert pool.acquire(0, [1]).late == (ExpertSlot(0, 1, slot),)


def test_the_same_expert_of_another_layer_is_another_expert() -> None:
    pool = make_pool()
    visit(pool, 0, 1)
    assert [entry.expert for entry in pool.acquire(1, [1]).missed] == [1]


def test_demanded_experts_are_a_set() -> None:
    pool = make_pool()
    lease = pool.acquire(0, [3, 3, 1, 3])
    assert [entry.expert for entry in lease.missed] == [3, 1]


def test_a_pinned_slot_is_never_evicted() -> None:
    pool = make_pool(n_slots=3)
    held = load(pool, 0, 1)
    for expert in range(2, 12):
        visit(pool, 0, expert)
    assert pool.find(0, 1) == held.slots[1]


def test_an_expert_pinned_twice_stays_until_both_leases_are_released() -> None:
    pool = make_pool(n_slots=1)
    first, second = load(pool, 0, 1), pool.acquire(0, [1])
    pool.release(first)
    with pytest.raises(SlotsExhaustedError):
        pool.acquire(0, [2])
    pool.release(second)
    pool.acquire(0, [2])


def test_found_experts_are_not_evicted_for_missed_ones_of_the_same_demand() -> None:
    pool = make_pool(n_slots=2)
    visit(pool, 0, 1)
    visit(pool, 0, 2)
    lease = pool.acquire(0, [3, 1])
    assert [entry.expert for entry in lease.ready] == [1]
    assert in_memory(pool) == {(0, 1), (0, 3)}


def test_a_slot_being_read_is_never_evicted() -> None:
    pool = make_pool(n_slots=2)
    lease = pool.acquire(0, [1])
    pool.release(lease)
    visit(pool, 0, 2)
    visit(pool, 0, 3)
    assert pool.find(0, 1) == lease.slots[1]


def test_too_few_slots_is_an_error_that_gives_the_numbers_and_changes_nothing() -> None:
    pool = make_pool(n_slots=3)
    load(pool, 0, 1, 2)
    visit(pool, 1, 3)
    with pytest.raises(
        SlotsExhaustedError,
        match=r"layer 1: 2 missed experts want slots, got 1 .*1 leases, 0 reads",
    ) as caught:
        pool.acquire(1, [4, 5])
    assert (caught.value.wanted, caught.value.got) == (2, 1)
    assert in_memory(pool) == {(0, 1), (0, 2), (1, 3)}
    assert pool.takeable == 1
    assert len(pool.leases) == 1


def test_a_lease_cannot_be_released_twice() -> None:
    pool = make_pool()
    lease = load(pool, 0, 1)
    pool.release(lease)
    with pytest.raises(SlotStateError, match="layer 0 has been released already"):
        pool.release(lease)


def test_free_slots_are_taken_before_anything_is_evicted() -> None:
    pool = make_pool(n_slots=3)
    for expert in range(3):
        visit(pool, 0, expert)
    assert in_memory(pool) == {(0, 0), (0, 1), (0, 2)}


def test_the_policy_chooses_among_the_unpinned() -> None:
    pool = make_pool(n_slots=2)
    visit(pool, 0, 1)
    visit(pool, 0, 2)
    visit(pool, 0, 1)
    visit(pool, 0, 3)
    assert in_memory(pool) == {(0, 1), (0, 3)}


# Ends of reads.


def test_a_failed_read_that_nobody_waits_for_frees_the_slot() -> None:
    pool = make_pool()
    slot = guess(pool, 0, 1)
    pool.lost(slot)
    assert pool.state(slot) is SlotState.FREE
    assert pool.find(0, 1) is None


def test_a_failed_read_of_a_pinned_slot_can_be_retried_in_place() -> None:
    pool = make_pool()
    lease = pool.acquire(0, [1])
    slot = lease.slots[1]
    pool.lost(slot)
    assert pool.state(slot) is SlotState.FAILED
    assert pool.retry(slot) == ExpertSlot(0, 1, slot)
    pool.finished(slot)
    assert pool.state(slot) is SlotState.READY


def test_a_failed_slot_is_free_once_released() -> None:
    pool = make_pool()
    lease = pool.acquire(0, [1])
    pool.lost(lease.slots[1])
    pool.release(lease)
    assert pool.find(0, 1) is None
    assert pool.takeable == pool.n_slots


def test_a_failed_slot_is_kept_while_another_lease_pins_it() -> None:
    pool = make_pool(n_slots=1)
    first, second = pool.acquire(0, [1]), pool.acquire(0, [1])
    slot = first.slots[1]
    pool.lost(slot)
    pool.release(first)
    assert pool.state(slot) is SlotState.FAILED
    pool.release(second)
    assert pool.state(slot) is SlotState.FREE


def test_a_failed_expert_is_missed_again_by_another_demand() -> None:
    pool = make_pool()
    first = pool.acquire(0, [1])
    pool.lost(first.slots[1])
    second = pool.acquire(0, [1])
    assert second.missed == first.missed
    pool.finished(second.slots[1])


def test_a_guess_cancelled_after_it_was_demanded_is_not_given_away() -> None:
    pool = make_pool(n_slots=2)
    slot = guess(pool, 0, 1)
    pool.let_go(0, 1)
    lease = pool.acquire(0, [1])
    assert lease.late == (ExpertSlot(0, 1, slot),)
    pool.lost(slot)
    visit(pool, 1, 7)
    visit(pool, 1, 8)
    assert pool.retry(slot) == ExpertSlot(0, 1, slot)


@pytest.mark.parametrize("end", ["finished", "lost"])
def test_a_read_cannot_end_twice(end: str) -> None:
    pool = make_pool()
    slot = guess(pool, 0, 1)
    pool.finished(slot)
    with pytest.raises(SlotStateError, match=f"a read of slot {slot} ended but it is ready"):
        getattr(pool, end)(slot)


def test_only_a_failed_slot_is_retried() -> None:
    pool = make_pool()
    slot = guess(pool, 0, 1)
    with pytest.raises(SlotStateError, match="is to be retried but is loading"):
        pool.retry(slot)


def test_a_read_that_ends_after_its_lease_was_released_leaves_the_expert_in_memory() -> None:
    pool = make_pool()
    lease = pool.acquire(0, [1])
    pool.release(lease)
    pool.finished(lease.slots[1])
    assert [entry.expert for entry in pool.acquire(0, [1]).ready] == [1]


# Prefill.


def test_prefill_recycles_its_own_slots_and_leaves_those_of_decode() -> None:
    pool = make_pool(n_slots=6)
    visit(pool, 0, 1, 2, 3, 4)
    for layer in range(4):
        for first in range(10, 20, 2):
            visit(pool, layer, first, first + 1, demand=Demand.PREFILL)
    assert {(0, 1), (0, 2), (0, 3), (0, 4)} <= in_memory(pool)


def test_overlapped_prefill_evicts_at_most_two_waves_of_what_decode_used() -> None:
    pool = make_pool(n_slots=10)
    visit(pool, 0, *range(10))
    before: Lease | None = None
    for first in range(20, 50, 2):
        lease = load(pool, 1, first, first + 1, demand=Demand.PREFILL)
        if before is not None:
            pool.release(before)
        before = lease
    assert len([key for key in in_memory(pool) if key[0] == 0]) == 10 - 2 * 2


def test_prefill_does_not_change_what_decode_has_learnt() -> None:
    pool = make_pool(n_slots=3)
    visit(pool, 0, 1)
    visit(pool, 0, 2)
    visit(pool, 0, 1, demand=Demand.PREFILL)
    visit(pool, 0, 3)
    visit(pool, 0, 4)
    assert in_memory(pool) == {(0, 2), (0, 3), (0, 4)}


def test_an_expert_of_prefill_that_decode_demands_stays_like_any_other() -> None:
    pool = make_pool(n_slots=3)
    visit(pool, 0, 1, demand=Demand.PREFILL)
    visit(pool, 0, 1)
    for expert in range(10, 20):
        visit(pool, 1, expert, demand=Demand.PREFILL)
    assert pool.find(0, 1) is not None


# Start and teardown.


def test_a_floor_above_the_number_of_slots_is_refused() -> None:
    with pytest.raises(ValueError, match="floor must be between 1 and n_slots = 4, got 5"):
        make_pool(n_slots=4, floor=5)


def test_release_all_unpins_what_an_error_left_behind() -> None:
    pool = make_pool()
    load(pool, 0, 1)
    pool.lost(pool.acquire(1, [2]).slots[2])
    pool.release_all()
    assert pool.leases == ()
    assert pool.takeable == pool.n_slots


def test_clearing_forgets_every_expert() -> None:
    pool = make_pool(n_slots=4)
    visit(pool, 0, 1)
    visit(pool, 1, 2, demand=Demand.PREFILL)
    pool.finished(guess(pool, 2, 3))
    pool.clear()
    assert in_memory(pool) == set()
    load(pool, 0, 1, 2, 3, 4)


def test_slots_are_not_given_up_while_a_read_writes_into_one() -> None:
    pool = make_pool()
    slot = guess(pool, 0, 1)
    with pytest.raises(SlotStateError, match="0 leases, 1 reads under way"):
        pool.close()
    pool.lost(slot)
    pool.close()


def test_slots_are_not_given_up_while_the_device_may_read_one() -> None:
    pool = make_pool()
    lease = load(pool, 0, 1)
    with pytest.raises(SlotStateError, match="1 leases, 0 reads under way"):
        pool.close()
    pool.release(lease)
    pool.close()


def test_a_closed_pool_gives_nothing() -> None:
    pool = make_pool()
    pool.close()
    pool.close()
    assert pool.reserve(0, 1) is None
    with pytest.raises(SlotStateError, match="closed"):
        pool.acquire(0, [1])


def test_a_free_slot_has_no_owner() -> None:
    with pytest.raises(SlotStateError, match="slot 0 is free"):
        make_pool().owner(0)
