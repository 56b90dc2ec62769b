"""What each slot holds, for an onlooker on another thread. Decides nothing and knows no bytes."""

from __future__ import annotations

from array import array
from enum import IntEnum

from moeflux.experts.lease import ExpertSlot

EXPERT_SHIFT = 2
LAYER_SHIFT = 32


class Presence(IntEnum):
    """Whether an expert's bytes are in memory."""

    ABSENT = 0
    RESIDENT = 1
    READING = 2


class SlotContents:
    """One number per slot: layer, expert and presence, so that each is written and copied at once.

    The thread that drives the reads writes; any other may copy, without a lock and without making
    it wait. An expert that moved between two slots while they were copied may be in both.
    """

    def __init__(self, n_slots: int) -> None:
        self._words = array("q", [Presence.ABSENT]) * n_slots

    def reading(self, expert: ExpertSlot) -> None:
        """A read into the expert's slot begins; whoever was there is gone."""
        owner = expert.layer << LAYER_SHIFT | expert.expert << EXPERT_SHIFT
        self._words[expert.slot] = owner | Presence.READING

    def arrived(self, slot: int) -> None:
        """The read into the slot delivered."""
        owner = self._words[slot] >> EXPERT_SHIFT << EXPERT_SHIFT
        self._words[slot] = owner | Presence.RESIDENT

    def lost(self, slot: int) -> None:
        """The read into the slot ended without its bytes."""
        self._words[slot] = Presence.ABSENT

    def copy(self) -> array[int]:
        """One number per slot: layer << LAYER_SHIFT | expert << EXPERT_SHIFT | presence."""
        return self._words[:]
