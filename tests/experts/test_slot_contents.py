"""What slots hold, as an onlooker reads it, against the slot pool that it describes."""

from __future__ import annotations

import random

import pytest

from moeflux.experts.eviction import LRU
from moeflux.experts.lease import ExpertSlot, Lease, SlotState
from moeflux.experts.residency import ExpertResidency
from moeflux.experts.slot_contents import EXPERT_SHIFT, LAYER_SHIFT, Presence, SlotContents
from moeflux.experts.slots import SlotPool

N_LAYERS, N_EXPERTS, N_SLOTS = 3, 12, 7


class AnyExpert:
    """Guesses a few experts at random."""

    name = "any"
    parts = ()

    def __init__(self, choice: random.Random) -> None:
        self._choice = choice

    def predict(self, layer: int) -> tuple[int, ...]:
        return tuple(self._choice.sample(range(N_EXPERTS), 3)) if layer < N_LAYERS else ()

    def record(self, layer: int, experts: object) -> None:
        """Learns nothing."""

    def forget(self) -> None:
        """Knows nothing."""


def word(layer: int, expert: int, presence: Presence) -> int:
    return layer << LAYER_SHIFT | expert << EXPERT_SHIFT | presence


def of_pool(pool: SlotPool) -> list[int]:
    """What the pool says of each slot."""
    words = []
    for slot in range(pool.n_slots):
        state = pool.state(slot)
        if state in (SlotState.FREE, SlotState.FAILED):
            words.append(int(Presence.ABSENT))
            continue
        layer, expert, _ = pool.owner(slot)
        presence = Presence.READING if state is SlotState.LOADING else Presence.RESIDENT
        words.append(word(layer, expert, presence))
    return words


def test_a_slot_is_empty_then_reading_then_resident() -> None:
    contents = SlotContents(2)
    assert list(contents.copy()) == [Presence.ABSENT, Presence.ABSENT]
    contents.reading(ExpertSlot(93, 511, 1))
    assert list(contents.copy()) == [Presence.ABSENT, word(93, 511, Presence.READING)]
    contents.arrived(1)
    assert list(contents.copy()) == [Presence.ABSENT, word(93, 511, Presence.RESIDENT)]


def test_a_read_takes_the_slot_from_who_was_there_and_a_lost_one_leaves_it_empty() -> None:
    contents = SlotContents(1)
    contents.reading(ExpertSlot(0, 3, 0))
    contents.arrived(0)
    contents.reading(ExpertSlot(1, 4, 0))
    assert list(contents.copy()) == [word(1, 4, Presence.READING)]
    contents.lost(0)
    assert list(contents.copy()) == [Presence.ABSENT]


def test_a_copy_stays_as_it_was() -> None:
    contents = SlotContents(1)
    before = contents.copy()
    contents.reading(ExpertSlot(0, 0, 0))
    assert list(before) == [Presence.ABSENT]


@pytest.mark.parametrize("seed", range(10))
def test_contents_say_what_the_pool_says_after_any_schedule(seed: int) -> None:
    choice = random.Random(seed)
    pool = SlotPool(N_SLOTS, 2, LRU())
    residency = ExpertResidency(pool, [10] * N_LAYERS, AnyExpert(choice))
    leases: list[Lease] = []
    kinds: set[str] = set()
    for _ in range(1000):
        kind = choice.choice(["demand", "guess", "release", "arrive", "arrive", "lose", "retry"])
        layer = choice.randrange(N_LAYERS)
        reading = list(pool.loading)
        failed = [slot for slot in range(N_SLOTS) if pool.state(slot) is SlotState.FAILED]
        if kind == "demand" and not leases and len(reading) < N_SLOTS - 3:
            experts = choice.sample(range(N_EXPERTS), 2)
            leases.append(residency.demand(layer, experts).lease)
        elif kind == "guess":
            residency.speculate(layer, 30)
        elif kind == "release" and leases:
            residency.release(leases.pop())
        elif kind in ("arrive", "lose") and reading:
            slot = choice.choice(reading).slot
            ends = [residency.failed, residency.cancelled]
            (residency.finished if kind == "arrive" else choice.choice(ends))(slot)
        elif kind == "retry" and failed:
            residency.retry(choice.choice(failed))
        else:
            continue
        kinds.add(kind)
        assert list(residency.contents.copy()) == of_pool(pool)
    assert kinds == {"demand", "guess", "release", "arrive", "lose", "retry"}
