"""Which evictable expert goes first: LRU, LFU, LFRU, Belady's optimum. Knows no slots, no bytes."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

ExpertKey = tuple[int, int]
"""(layer, expert)"""

POLICY_NAMES = ("lru", "lfu", "lfru")


class EvictionPolicy(Protocol):
    """An order over the experts that may be evicted; deterministic, O(log n) per call, amortised.

    `time` counts demands of a layer's experts and never decreases. An expert is touched before it
    is added.
    """

    def touch(self, key: ExpertKey, time: int, /) -> None:
        """The expert was demanded at `time`; it is not evictable at this moment."""

    def add(self, key: ExpertKey) -> None:
        """The expert may be evicted from now on."""

    def remove(self, key: ExpertKey) -> None:
        """The expert may not be evicted any more, though it stays in memory."""

    def victim(self) -> ExpertKey:
        """The expert to evict first; it stays evictable. Raises LookupError if there is none."""

    def evict(self, key: ExpertKey) -> None:
        """An evictable expert leaves memory."""

    def __len__(self) -> int:
        """Number of evictable experts."""


class _EvictableHeap:
    """Keys by priority, least first, ties in the order of `add`.

    A removed key leaves a stale entry in the heap, which is skipped when it comes first.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, ExpertKey]] = []
        self._current: dict[ExpertKey, tuple[float, int, ExpertKey]] = {}
        self._n_added = 0

    def __len__(self) -> int:
        return len(self._current)

    def add(self, key: ExpertKey, priority: float) -> None:
        if key in self._current:
            raise ValueError(f"layer {key[0]} expert {key[1]} is evictable already")
        entry = (priority, self._n_added, key)
        self._n_added += 1
        self._current[key] = entry
        # Without this a key that is added and removed for ever would grow the heap without bound.
        if len(self._entries) > 2 * len(self._current) + 64:
            self._entries = list(self._current.values())
            heapq.heapify(self._entries)
        else:
            heapq.heappush(self._entries, entry)

    def remove(self, key: ExpertKey) -> float:
        """Returns the key's priority."""
        if key not in self._current:
            raise ValueError(f"layer {key[0]} expert {key[1]} is not evictable")
        return self._current.pop(key)[0]

    def least(self) -> ExpertKey:
        while self._entries:
            entry = self._entries[0]
            if self._current.get(entry[2]) is entry:
                return entry[2]
            heapq.heappop(self._entries)
        raise LookupError("no expert is evictable")


class LRU:
    """Least recently used first."""

    def __init__(self) -> None:
        self._heap = _EvictableHeap()
        self._last_use: dict[ExpertKey, int] = {}

    def __len__(self) -> int:
        return len(self._heap)

    def touch(self, key: ExpertKey, time: int) -> None:
        self._last_use[key] = time

    def add(self, key: ExpertKey) -> None:
        self._heap.add(key, self._last_use[key])

    def remove(self, key: ExpertKey) -> None:
        self._heap.remove(key)

    def victim(self) -> ExpertKey:
        return self._heap.least()

    def evict(self, key: ExpertKey) -> None:
        self._heap.remove(key)


class LFU:
    """Least frequently used first, with dynamic aging.

    priority = uses since loaded + priority of the last evicted: LFU-DA of Arlitt, Friedrich and
    Jin, "Performance evaluation of Web proxy cache replacement policies" (1998).
    """

    def __init__(self) -> None:
        self._heap = _EvictableHeap()
        self._priority: dict[ExpertKey, float] = {}
        self._age = 0.0

    def __len__(self) -> int:
        return len(self._heap)

    def touch(self, key: ExpertKey, _time: int) -> None:
        self._priority[key] = self._priority.get(key, self._age) + 1.0

    def add(self, key: ExpertKey) -> None:
        self._heap.add(key, self._priority[key])

    def remove(self, key: ExpertKey) -> None:
        self._heap.remove(key)

    def victim(self) -> ExpertKey:
        return self._heap.least()

    def evict(self, key: ExpertKey) -> None:
        self._age = self._heap.remove(key)
        del self._priority[key]


class LFRU:
    """Least frequently and recently used first, by one score that joins both.

    score = sum over uses of 2 ** ((time of use - now) / half_life): the combined recency and
    frequency of Lee et al., "LRFU: a spectrum of policies" (IEEE Trans. Computers 50(12), 2001).
    A use counts half after `half_life` demands, so a short one is LRU and a long one LFU. All
    scores fade alike, so their order changes at a use only: log2(score) + now / half_life is kept
    instead, which needs no scan and cannot overflow. Evicted experts keep their scores, one number
    per expert of the model: routing is skewed for longer than an expert stays in a small pool.
    """

    def __init__(self, half_life: float) -> None:
        if not half_life > 0:
            raise ValueError(f"half_life must be positive, got {half_life}")
        self._half_life = half_life
        self._heap = _EvictableHeap()
        self._score: dict[ExpertKey, float] = {}

    def __len__(self) -> int:
        return len(self._heap)

    def touch(self, key: ExpertKey, time: int) -> None:
        now = time / self._half_life
        score = self._score.get(key)
        if score is None:
            self._score[key] = now
        else:
            high, low = max(score, now), min(score, now)
            self._score[key] = high + math.log2(1.0 + 2.0 ** (low - high))

    def add(self, key: ExpertKey) -> None:
        self._heap.add(key, self._score[key])

    def remove(self, key: ExpertKey) -> None:
        self._heap.remove(key)

    def victim(self) -> ExpertKey:
        return self._heap.least()

    def evict(self, key: ExpertKey) -> None:
        self._heap.remove(key)


class Belady:
    """The expert whose next use lies farthest ahead goes first (Belady 1966).

    No policy has fewer misses. `uses` gives, per expert, the ascending times of all its demands:
    the future, so that this serves the simulator only.
    """

    def __init__(self, uses: Mapping[ExpertKey, Sequence[int]]) -> None:
        self._uses = uses
        self._heap = _EvictableHeap()
        self._next_use: dict[ExpertKey, float] = {}

    def __len__(self) -> int:
        return len(self._heap)

    def touch(self, key: ExpertKey, time: int) -> None:
        uses = self._uses.get(key, ())
        index = bisect_right(uses, time)
        self._next_use[key] = uses[index] if index < len(uses) else math.inf

    def add(self, key: ExpertKey) -> None:
        self._heap.add(key, -self._next_use[key])

    def remove(self, key: ExpertKey) -> None:
        self._heap.remove(key)

    def victim(self) -> ExpertKey:
        return self._heap.least()

    def evict(self, key: ExpertKey) -> None:
        self._heap.remove(key)


def uses_by_expert(
    demands: Iterable[tuple[int, Iterable[int]]], first_time: int = 1
) -> dict[ExpertKey, list[int]]:
    """The `uses` of Belady from (layer, experts) of each demand, the first at `first_time`."""
    uses: dict[ExpertKey, list[int]] = {}
    for time, (layer, experts) in enumerate(demands, first_time):
        for expert in experts:
            uses.setdefault((layer, expert), []).append(time)
    return uses


def default_half_life(n_slots: int, top_k: int, n_layers: int) -> float:
    """The half life of LFRU, in demands: those that fill the pool if all miss, at least two tokens.

    A small pool has room for little more than what is recent, while a large one keeps experts long
    enough for their frequency to tell. Below one token of experts recency alone is worthless: it
    evicts every expert just before its layer comes again.
    """
    return max(n_slots / top_k, 2.0 * n_layers)


def make_policy(name: str, n_slots: int, top_k: int, n_layers: int) -> EvictionPolicy:
    """A policy by its name, one of POLICY_NAMES, for n_slots shared by n_layers with experts.

    Raises ValueError for another name.
    """
    if name == "lru":
        return LRU()
    if name == "lfu":
        return LFU()
    if name == "lfru":
        return LFRU(default_half_life(n_slots, top_k, n_layers))
    raise ValueError(f"eviction policy must be one of {', '.join(POLICY_NAMES)}, got {name!r}")
