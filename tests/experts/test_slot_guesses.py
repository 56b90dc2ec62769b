"""The slot pool: what a guess may take, and what it may not."""

from __future__ import annotations

import pytest
from slot_pools import guess, in_memory, load, make_pool, visit

from moeflux.experts.lease import SlotStateError
from moeflux.experts.slots import Demand


def test_guesses_leave_the_floor_to_demand() -> None:
    pool = make_pool(n_slots=5, floor=2)
    taken = [pool.reserve(1, expert) for expert in range(5)]
    assert [slot is not None for slot in taken] == [True, True, True, False, False]
    load(pool, 0, 8, 9)


def test_pinned_slots_do_not_count_towards_the_floor() -> None:
    pool = make_pool(n_slots=4, floor=2)
    load(pool, 0, 8, 9)
    assert pool.reserve(1, 0) is None


def test_an_expert_kept_for_a_guess_does_not_count_towards_the_floor() -> None:
    pool = make_pool(n_slots=3, floor=2)
    visit(pool, 0, 1)
    assert pool.hold(0, 1)
    assert pool.reserve(1, 0) is None


def test_a_guess_never_evicts_what_was_just_demanded() -> None:
    pool = make_pool(n_slots=2, live_acquires=2)
    visit(pool, 0, 1)
    visit(pool, 0, 2)
    assert pool.reserve(1, 7) is None
    visit(pool, 0, 2)
    assert pool.reserve(1, 7) is not None
    assert in_memory(pool) == {(0, 2), (1, 7)}


def test_a_guess_never_evicts_another_live_guess() -> None:
    pool = make_pool(n_slots=3, floor=1)
    for expert in (1, 2):
        pool.finished(guess(pool, 1, expert))
    visit(pool, 0, 5)
    assert pool.reserve(1, 3) is None
    assert pool.find(1, 1) is not None
    assert pool.find(1, 2) is not None


def test_a_guess_may_take_the_slot_of_a_spent_guess() -> None:
    pool = make_pool(n_slots=2, floor=1)
    slot = guess(pool, 1, 1)
    pool.finished(slot)
    visit(pool, 0, 5)
    pool.let_go(1, 1)
    assert pool.reserve(1, 2) == slot


def test_demand_evicts_a_live_guess_only_when_nothing_else_is_left() -> None:
    pool = make_pool(n_slots=2, floor=1)
    pool.finished(guess(pool, 1, 1))
    visit(pool, 0, 5)
    visit(pool, 0, 6)
    assert pool.find(1, 1) is not None
    load(pool, 0, 7, 8)
    assert pool.find(1, 1) is None


def test_of_two_live_guesses_demand_evicts_the_older() -> None:
    pool = make_pool(n_slots=3, floor=1)
    for expert in (1, 2):
        pool.finished(guess(pool, 1, expert))
    load(pool, 0, 7, 8)
    assert pool.find(1, 1) is None
    assert pool.find(1, 2) is not None


def test_a_demanded_guess_is_evicted_by_the_policy_from_then_on() -> None:
    pool = make_pool(n_slots=2, floor=1)
    pool.finished(guess(pool, 0, 1))
    visit(pool, 0, 1)
    visit(pool, 0, 2)
    visit(pool, 0, 3)
    assert in_memory(pool) == {(0, 2), (0, 3)}


def test_a_guess_that_prefill_demanded_is_held_no_longer() -> None:
    pool = make_pool(n_slots=2, floor=1)
    slot = guess(pool, 0, 1)
    pool.finished(slot)
    visit(pool, 0, 1, demand=Demand.PREFILL)
    assert not pool.is_held(slot)
    assert pool.takeable == 2


def test_a_held_expert_outlives_experts_used_after_it() -> None:
    pool = make_pool(n_slots=3, floor=1)
    visit(pool, 0, 1)
    assert pool.hold(0, 1)
    for expert in range(2, 9):
        visit(pool, 0, expert)
    assert pool.find(0, 1) is not None


def test_an_expert_let_go_has_the_standing_it_had_before() -> None:
    pool = make_pool(n_slots=3, floor=1)
    for expert in (1, 2, 3):
        visit(pool, 0, expert)
    assert pool.hold(0, 2)
    pool.let_go(0, 2)
    visit(pool, 0, 4)
    assert in_memory(pool) == {(0, 2), (0, 3), (0, 4)}


def test_a_guess_for_an_expert_that_has_a_slot_is_a_mistake() -> None:
    pool = make_pool()
    slot = guess(pool, 0, 1)
    with pytest.raises(SlotStateError, match=f"layer 0 expert 1 owns slot {slot} already"):
        pool.reserve(0, 1)


def test_an_expert_that_is_pinned_absent_or_loading_cannot_be_held() -> None:
    pool = make_pool()
    load(pool, 0, 1)
    guess(pool, 0, 2)
    assert [pool.hold(0, expert) for expert in (1, 2, 3)] == [False, False, False]
