"""The slot pool under random schedules, against a model of what the schedule asked for."""

from __future__ import annotations

import random
import sys
from collections import Counter
from types import FrameType

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from moeflux.experts.eviction import LRU, POLICY_NAMES, make_policy
from moeflux.experts.lease import Demand, Lease, SlotsExhaustedError
from moeflux.experts.slots import SlotPool, SlotState

TOP_K = 3
LAYERS = st.integers(0, 2)
EXPERTS = st.integers(0, 6)
ALL_KEYS = [(layer, expert) for layer in range(3) for expert in range(7)]
Key = tuple[int, int]


class SlotPoolSchedule(RuleBasedStateMachine):
    """Demands, guesses and ends of reads in any order. The model knows only what it asked for."""

    @initialize(
        n_slots=st.integers(TOP_K, 9), policy=st.sampled_from(POLICY_NAMES), live=st.integers(0, 4)
    )
    def start(self, n_slots: int, policy: str, live: int) -> None:
        self.pool = SlotPool(n_slots, TOP_K, make_policy(policy, n_slots, TOP_K, 3), live)
        self.leases: list[Lease] = []
        self.owned: dict[int, Key] = {}
        """By slot, what is pinned or being read, and may therefore not change hands."""
        self.reading: set[int] = set()
        self.failed: set[int] = set()
        self.demanded_reads: set[int] = set()
        self.recent: list[set[Key]] = []
        self.live = live

    def pins(self) -> Counter[int]:
        return Counter(slot for lease in self.leases for slot in lease.slots.values())

    def check_not_owned(self, slot: int, key: Key) -> None:
        assert slot not in self.owned, f"{key} was given {self.owned[slot]}'s slot {slot}"
        assert 0 <= slot < self.pool.n_slots

    @rule(
        layer=LAYERS,
        experts=st.lists(EXPERTS, min_size=1, max_size=TOP_K, unique=True),
        demand=st.sampled_from(Demand),
    )
    def acquire(self, layer: int, experts: list[int], demand: Demand) -> None:
        takeable = self.pool.takeable
        try:
            lease = self.pool.acquire(layer, experts, demand)
        except SlotsExhaustedError:
            # Within the floor a demand may fail only while other demands occupy slots.
            assert self.leases or self.demanded_reads
            assert self.pool.takeable == takeable
            return
        assert set(lease.slots) == set(experts)
        for entry in lease.missed:
            if entry.slot in self.failed:
                assert self.owned[entry.slot] == (layer, entry.expert)
                self.failed.remove(entry.slot)
            else:
                self.check_not_owned(entry.slot, (layer, entry.expert))
            self.reading.add(entry.slot)
        for entry in lease.late:
            assert entry.slot in self.reading
            assert self.owned[entry.slot] == (layer, entry.expert)
        for entry in lease.ready:
            assert entry.slot not in self.reading | self.failed
        for expert, slot in lease.slots.items():
            self.owned[slot] = (layer, expert)
        self.demanded_reads |= self.reading & set(lease.slots.values())
        self.leases.append(lease)
        if demand is Demand.DECODE:
            self.recent.append({(layer, expert) for expert in experts})

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        lease = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        self.pool.release(lease)
        pins = self.pins()
        for slot in lease.slots.values():
            if pins[slot] == 0 and slot not in self.reading:
                del self.owned[slot]
                self.failed.discard(slot)

    @rule(layer=LAYERS, expert=EXPERTS)
    def guess(self, layer: int, expert: int) -> None:
        if self.pool.find(layer, expert) is not None:
            self.pool.hold(layer, expert)
            return
        protected = {key for keys in self.recent[len(self.recent) - self.live :] for key in keys}
        protected = {key for key in protected if self.pool.find(*key) is not None}
        slot = self.pool.reserve(layer, expert)
        assert all(self.pool.find(*key) is not None for key in protected)
        if slot is not None:
            self.check_not_owned(slot, (layer, expert))
            assert self.pool.takeable >= TOP_K
            self.owned[slot] = (layer, expert)
            self.reading.add(slot)

    @rule(layer=LAYERS, expert=EXPERTS)
    def let_go(self, layer: int, expert: int) -> None:
        self.pool.let_go(layer, expert)

    @precondition(lambda self: self.reading)
    @rule(data=st.data(), delivered=st.booleans())
    def end_a_read(self, data: st.DataObject, delivered: bool) -> None:
        slot = data.draw(st.sampled_from(sorted(self.reading)))
        self.reading.remove(slot)
        self.demanded_reads.discard(slot)
        if delivered:
            self.pool.finished(slot)
        else:
            self.pool.lost(slot)
        if self.pins()[slot] == 0:
            del self.owned[slot]
        elif not delivered:
            self.failed.add(slot)

    @precondition(lambda self: self.failed)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.failed)))
        self.failed.remove(slot)
        entry = self.pool.retry(slot)
        assert (entry.layer, entry.expert) == self.owned[slot]
        self.reading.add(slot)
        self.demanded_reads.add(slot)

    @invariant()
    def pinned_and_loading_slots_keep_their_owner(self) -> None:
        for slot, key in self.owned.items():
            assert self.pool.find(*key) == slot
            assert self.pool.owner(slot)[:2] == key

    @invariant()
    def pins_are_those_of_the_leases(self) -> None:
        pins = self.pins()
        assert [self.pool.n_pins(slot) for slot in range(self.pool.n_slots)] == [
            pins[slot] for slot in range(self.pool.n_slots)
        ]

    @invariant()
    def states_are_those_of_the_reads(self) -> None:
        states = [self.pool.state(slot) for slot in range(self.pool.n_slots)]
        loading = {slot for slot, state in enumerate(states) if state is SlotState.LOADING}
        failed = {slot for slot, state in enumerate(states) if state is SlotState.FAILED}
        assert (loading, failed) == (self.reading, self.failed)
        assert {entry.slot for entry in self.pool.loading} == self.reading

    @invariant()
    def no_expert_has_two_slots_and_no_slot_is_lost(self) -> None:
        found = {key: self.pool.find(*key) for key in ALL_KEYS}
        slots = [slot for slot in found.values() if slot is not None]
        assert len(slots) == len(set(slots))
        n_free = sum(self.pool.state(slot) is SlotState.FREE for slot in range(self.pool.n_slots))
        assert n_free + len(slots) == self.pool.n_slots

    @invariant()
    def what_is_takeable_is_free_or_ready_and_neither_pinned_nor_held(self) -> None:
        pool = self.pool
        takeable = [
            slot
            for slot in range(pool.n_slots)
            if pool.state(slot) is SlotState.FREE
            or (
                pool.state(slot) is SlotState.READY
                and pool.n_pins(slot) == 0
                and not pool.is_held(slot)
            )
        ]
        assert pool.takeable == len(takeable)

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        for slot in sorted(self.reading):
            self.pool.lost(slot)
        self.pool.release_all()
        self.pool.close()
        assert self.pool.takeable == self.pool.n_slots


SlotPoolSchedule.TestCase.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None, database=None, derandomize=True
)
TestSlotPoolSchedule = SlotPoolSchedule.TestCase


class PoolWithoutFloor(SlotPool):
    """What the pool would be if guesses could take every slot."""

    def _spare(self) -> int:
        return self.takeable


class GreedyDecode:
    """Decode that guesses all it can get, with reads that end late and in any order."""

    def __init__(self, pool_type: type[SlotPool], seed: int) -> None:
        self.rng = random.Random(seed)
        self.pool = pool_type(self.rng.randint(TOP_K, 4 * TOP_K), TOP_K, LRU())
        self.guessed: list[Key] = []
        self.reading: list[int] = []

    def starves(self, n_layers: int = 4, n_steps: int = 24) -> bool:
        """Whether the demand of a layer ever failed."""
        for step in range(n_steps):
            layer = step % n_layers
            self.pool.release_all()
            if self.rng.random() < 0.3:
                self.guess(layer)
            try:
                self.demand(layer)
            except SlotsExhaustedError:
                return True
            self.end_some_guesses()
            self.guess((layer + 1) % n_layers)
        return False

    def guess(self, layer: int) -> None:
        for expert in self.rng.sample(range(12), self.rng.randint(0, 12)):
            if self.pool.find(layer, expert) is None:
                slot = self.pool.reserve(layer, expert)
                if slot is not None:
                    self.reading.append(slot)
                    self.guessed.append((layer, expert))

    def demand(self, layer: int) -> None:
        lease = self.pool.acquire(layer, self.rng.sample(range(12), TOP_K))
        for entry in (*lease.missed, *lease.late):
            self.pool.finished(entry.slot)
        late = {entry.slot for entry in lease.late}
        self.reading = [slot for slot in self.reading if slot not in late]

    def end_some_guesses(self) -> None:
        for key in self.guessed:
            self.pool.let_go(*key)
        self.guessed.clear()
        for slot in [slot for slot in self.reading if self.rng.random() < 0.4]:
            self.reading.remove(slot)
            self.rng.choice([self.pool.finished, self.pool.lost])(slot)


def test_greedy_guesses_never_starve_routed_experts() -> None:
    assert [seed for seed in range(1000) if GreedyDecode(SlotPool, seed).starves()] == []


def test_without_the_floor_greedy_guesses_starve_routed_experts() -> None:
    assert sum(GreedyDecode(PoolWithoutFloor, seed).starves() for seed in range(100)) > 10


def lines_run_by_a_demand(n_slots: int) -> int:
    """Lines of Python that a demand runs which evicts eight experts of a full pool."""
    pool = SlotPool(n_slots, 8, make_policy("lfru", n_slots, top_k=8, n_layers=1))
    for first in range(0, n_slots, 8):
        lease = pool.acquire(0, range(first, first + 8))
        for entry in lease.missed:
            pool.finished(entry.slot)
        pool.release(lease)
    n_lines = 0

    def count(_frame: FrameType, event: str, _argument: object) -> object:
        nonlocal n_lines
        n_lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        pool.release(pool.acquire(1, range(8)))
    finally:
        sys.settrace(before)
    return n_lines


def test_the_work_of_a_demand_does_not_grow_with_the_pool() -> None:
    assert lines_run_by_a_demand(8_000) < 1.2 * lines_run_by_a_demand(80)
