"""Eviction policies: which expert goes first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeflux.experts.eviction import (
    LFRU,
    LFU,
    LRU,
    POLICY_NAMES,
    Belady,
    EvictionPolicy,
    ExpertKey,
    default_half_life,
    make_policy,
    uses_by_expert,
)

A, B, C = (0, 10), (0, 11), (1, 10)

Schedule = list[list[int]]


def use(policy: EvictionPolicy, times: dict[ExpertKey, Sequence[int]]) -> None:
    """Touch keys at their times, in order of time, and let all of them be evicted."""
    for time, key in sorted((time, key) for key, all_times in times.items() for time in all_times):
        policy.touch(key, time)
    for key in times:
        policy.add(key)


def order(policy: EvictionPolicy) -> list[ExpertKey]:
    keys = []
    while len(policy):
        keys.append(policy.victim())
        policy.evict(keys[-1])
    return keys


def test_lru_evicts_the_expert_that_was_used_longest_ago() -> None:
    policy = LRU()
    use(policy, {A: [1, 2, 3, 7], B: [5], C: [6]})
    assert order(policy) == [B, C, A]


def test_lru_orders_by_last_use_not_by_when_the_expert_became_evictable() -> None:
    policy = LRU()
    policy.touch(A, 1)
    policy.touch(B, 2)
    policy.add(B)
    policy.add(A)
    assert order(policy) == [A, B]


def test_lfu_evicts_the_expert_with_fewest_uses() -> None:
    policy = LFU()
    use(policy, {A: [1, 2, 3], B: [8], C: [6, 7]})
    assert order(policy) == [B, C, A]


def test_lfu_ages_so_that_old_favourites_leave_at_last() -> None:
    policy = LFU()
    use(policy, {A: [1, 2, 3]})
    victims = []
    for time in range(4, 14):
        key = (1, time)
        policy.touch(key, time)
        policy.add(key)
        victims.append(policy.victim())
        policy.evict(victims[-1])
    assert A in victims


def test_lfru_with_a_short_half_life_orders_as_lru() -> None:
    policy = LFRU(half_life=0.01)
    use(policy, {A: [1, 2, 3, 4], B: [6], C: [5]})
    assert order(policy) == [A, C, B]


def test_lfru_with_a_long_half_life_orders_as_lfu() -> None:
    policy = LFRU(half_life=1e6)
    use(policy, {A: [1, 2, 3, 4], B: [6], C: [5, 7]})
    assert order(policy) == [B, C, A]


def test_lfru_remembers_the_score_of_an_evicted_expert() -> None:
    policy = LFRU(half_life=1e6)
    use(policy, {A: [1, 2, 3]})
    policy.evict(A)
    use(policy, {A: [4], B: [5, 6]})
    assert order(policy) == [B, A]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), min_size=1, max_size=60),
    st.floats(0.5, 200),
)
@settings(max_examples=200, deadline=None, database=None, derandomize=True)
def test_lfru_orders_by_the_sum_of_fading_uses(
    uses: list[tuple[int, int]], half_life: float
) -> None:
    times: dict[ExpertKey, list[int]] = {}
    time = 0
    for expert, gap in uses:
        time += gap
        times.setdefault((0, expert), []).append(time)
    policy = LFRU(half_life)
    use(policy, {key: tuple(value) for key, value in times.items()})
    scores = [
        math.fsum(2.0 ** ((use_time - time) / half_life) for use_time in times[key])
        for key in order(policy)
    ]
    for lower, higher in pairwise(scores):
        assert lower <= higher * (1 + 1e-9)


def test_lfru_keeps_its_order_over_times_whose_powers_overflow() -> None:
    policy = LFRU(half_life=1.0)
    use(policy, {A: [1], B: [5_000_000], C: [4_999_999, 5_000_000]})
    assert order(policy) == [A, B, C]


def test_lfru_refuses_a_half_life_of_zero() -> None:
    with pytest.raises(ValueError, match="half_life must be positive"):
        LFRU(0)


def test_the_default_half_life_grows_with_the_pool() -> None:
    assert default_half_life(n_slots=3200, top_k=8, n_layers=40) == 400.0


def test_the_default_half_life_is_two_tokens_at_least() -> None:
    assert default_half_life(n_slots=8, top_k=8, n_layers=40) == 80.0


def test_below_one_token_of_experts_lfru_still_hits_where_lru_does_not() -> None:
    demands = [
        [10 * layer, 10 * layer + token % 7 + 1] for token in range(60) for layer in range(4)
    ]
    n_slots, n_routed = 6, 2 * len(demands)
    assert misses(make_policy("lru", n_slots, top_k=2, n_layers=4), demands, n_slots) == n_routed
    assert misses(make_policy("lfru", n_slots, top_k=2, n_layers=4), demands, n_slots) < n_routed


def test_belady_evicts_the_expert_whose_next_use_is_farthest() -> None:
    policy = Belady({A: [1, 9], B: [1, 4], C: [1]})
    use(policy, {A: [1], B: [1], C: [1]})
    assert order(policy) == [C, A, B]


def test_uses_are_numbered_by_demand() -> None:
    assert uses_by_expert([(0, [3, 4]), (1, [3]), (0, [4])]) == {
        (0, 3): [1],
        (0, 4): [1, 3],
        (1, 3): [2],
    }


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_a_removed_expert_is_no_victim_until_added_again(name: str) -> None:
    policy = make_policy(name, n_slots=8, top_k=2, n_layers=2)
    use(policy, {A: [1], B: [2, 3]})
    policy.remove(A)
    assert policy.victim() == B
    policy.add(A)
    assert policy.victim() == A


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_looking_at_the_victim_does_not_evict_it(name: str) -> None:
    policy = make_policy(name, n_slots=8, top_k=2, n_layers=2)
    use(policy, {A: [1], B: [2, 3]})
    assert policy.victim() == policy.victim()
    assert len(policy) == 2


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_no_evictable_expert_is_an_error(name: str) -> None:
    with pytest.raises(LookupError, match="no expert is evictable"):
        make_policy(name, n_slots=8, top_k=2, n_layers=2).victim()


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_pinning_for_ever_does_not_grow_the_policy(name: str) -> None:
    policy = make_policy(name, n_slots=8, top_k=2, n_layers=2)
    for time in range(5000):
        policy.touch(A, time)
        policy.add(A)
        policy.remove(A)
    assert len(policy._heap._entries) < 200


def test_an_unknown_policy_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="must be one of lru, lfu, lfru, got 'fifo'"):
        make_policy("fifo", n_slots=8, top_k=2, n_layers=2)


def misses(policy: EvictionPolicy, demands: Schedule, n_slots: int) -> int:
    """Demand paging of sets, by the definition: what is demanded now is never evicted now."""
    memory: set[ExpertKey] = set()
    count = 0
    for time, experts in enumerate(demands, 1):
        keys = {(0, expert) for expert in experts}
        for key in sorted(keys & memory):
            policy.remove(key)
        for _ in range(len(keys | memory) - n_slots):
            victim = policy.victim()
            policy.evict(victim)
            memory.remove(victim)
        count += len(keys - memory)
        memory |= keys
        for key in sorted(keys):
            policy.touch(key, time)
            policy.add(key)
    return count


@given(
    st.lists(
        st.lists(st.integers(0, 7), min_size=1, max_size=3, unique=True), min_size=1, max_size=40
    ),
    st.integers(3, 6),
)
@settings(max_examples=200, deadline=None, database=None, derandomize=True)
def test_no_policy_misses_less_than_belady(demands: Schedule, n_slots: int) -> None:
    uses = uses_by_expert((0, experts) for experts in demands)
    least = misses(Belady(uses), demands, n_slots)
    for name in POLICY_NAMES:
        assert misses(make_policy(name, n_slots, top_k=3, n_layers=1), demands, n_slots) >= least
