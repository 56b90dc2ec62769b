"""The order in which experts in memory give way. Knows no slots, no pins and no reads."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum

from moeflux.experts.eviction import EvictionPolicy, ExpertKey


class Standing(Enum):
    """What an unpinned expert in memory is good for."""

    UNUSED = "unused"
    """No decode step has demanded it since it was loaded: prefill, or a spent guess."""
    USED = "used"
    """Decode has demanded it; the eviction policy knows its worth."""
    HELD = "held"
    """Held for a guess whose layer is still to come."""


class EvictionOrder:
    """Experts that may be evicted, by standing first.

    UNUSED ones go first, last in first out, so that a prefill which walks all layers recycles its
    own slots and leaves those of decode alone; then USED ones as the policy says; then, for demand
    only, HELD ones, oldest first.
    """

    def __init__(self, policy: EvictionPolicy) -> None:
        self._policy = policy
        self._unused: dict[ExpertKey, None] = {}
        self._held: OrderedDict[ExpertKey, None] = OrderedDict()

    @property
    def n_takeable(self) -> int:
        """Experts that are not held."""
        return len(self._unused) + len(self._policy)

    @property
    def n_held(self) -> int:
        return len(self._held)

    def touch(self, key: ExpertKey, time: int) -> None:
        """Decode demanded an expert, which is not in this order at the moment."""
        self._policy.touch(key, time)

    def add(self, key: ExpertKey, standing: Standing) -> None:
        if standing is Standing.USED:
            self._policy.add(key)
        else:
            (self._unused if standing is Standing.UNUSED else self._held)[key] = None

    def remove(self, key: ExpertKey, standing: Standing) -> None:
        """The expert stays in memory but may not be evicted any more."""
        if standing is Standing.USED:
            self._policy.remove(key)
        else:
            del (self._unused if standing is Standing.UNUSED else self._held)[key]

    def first_used(self) -> ExpertKey | None:
        """The policy's victim if no UNUSED expert goes before it."""
        return None if self._unused else self._policy.victim()

    def evict(self) -> ExpertKey:
        """Take out the expert that goes first. Raises LookupError if there is none."""
        if self._unused:
            return self._unused.popitem()[0]
        if len(self._policy):
            key = self._policy.victim()
            self._policy.evict(key)
            return key
        if self._held:
            return self._held.popitem(last=False)[0]
        raise LookupError("no expert is evictable")
