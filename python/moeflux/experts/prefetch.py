"""The plan for the next layer's experts: which guesses to read, and what became of each.

Calls come in, reads to submit or cancel go out; no I/O, no clock, no thread. At most one plan is
in force. A plan ends when it is consumed by its layer's routing, replaced, or invalidated. What is
still being read then is to be cancelled, and keeps its slot until the end of the read is reported.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from moeflux.experts.lease import ExpertSlot, Lease, SlotStateError
from moeflux.experts.slots import SlotPool


class Speculation(NamedTuple):
    """Reads to submit behind all demanded ones, and earlier reads to cancel."""

    read: tuple[ExpertSlot, ...]
    cancel: tuple[ExpertSlot, ...]


class Consumption(NamedTuple):
    """Experts of a lease that guesses supplied, in time or late; and reads to cancel."""

    supplied: frozenset[int]
    cancel: tuple[ExpertSlot, ...]


@dataclass
class GuessCounters:
    """Where the bytes of guesses went: `issued` is the sum of the others and of open guesses."""

    issued_nbytes: int = 0
    useful_nbytes: int = 0
    """In memory when their layer routed to them."""
    late_nbytes: int = 0
    """Routed to while they were still being read."""
    wasted_nbytes: int = 0
    """Read in full, and not routed to by their layer."""
    cancelled_nbytes: int = 0
    failed_nbytes: int = 0
    n_present: int = 0
    """Guessed experts that needed no read, being in memory or under way already."""


@dataclass(eq=False)
class _Guess:
    read: ExpertSlot
    nbytes: int
    counters: GuessCounters
    spent: bool = False
    """Its plan has ended, so that the read only has to end as well."""


class Prefetch:
    """Guessed reads into a pool. `record_nbytes` gives the bytes of one expert per layer."""

    def __init__(self, pool: SlotPool, record_nbytes: Sequence[int]) -> None:
        self.counters: dict[str, GuessCounters] = {}
        """By predictor."""
        self._pool = pool
        self._record_nbytes = tuple(record_nbytes)
        self._layer: int | None = None
        self._plan: dict[int, _Guess | None] = {}
        """Guessed experts by id; None for one that is held in memory without a read."""
        self._reading: dict[int, _Guess] = {}
        """By slot, what is being read and was not demanded, spent guesses included."""
        self._closed = False

    @property
    def layer(self) -> int | None:
        """The layer that the plan in force is for."""
        return self._layer

    @property
    def reading_nbytes(self) -> int:
        """Bytes of the guesses whose reads are under way."""
        return sum(guess.nbytes for guess in self._reading.values())

    def dispatch(
        self, layer: int, ranked: Sequence[int], limit_nbytes: int, source: str
    ) -> Speculation:
        """Replace the plan by one for `layer`: reads of `ranked` experts that are not there yet.

        Best first, until the bytes of all guesses under way reach `limit_nbytes` or the pool gives
        no more slots to guesses. Nothing is read for a layer that does not exist. Raises
        SlotStateError once closed.
        """
        if self._closed:
            raise SlotStateError("prefetch is closed")
        exists = 0 <= layer < len(self._record_nbytes)
        wanted = dict.fromkeys(ranked) if exists else {}
        cancel = self._end_plan(keep=wanted if layer == self._layer else ())
        if not exists:
            return Speculation((), cancel)
        self._layer = layer
        counters = self.counters.setdefault(source, GuessCounters())
        # Held before anything is read, lest a guess evicts an expert that is guessed as well.
        for expert in wanted:
            if self._pool.find(layer, expert) is not None:
                counters.n_present += 1
                if self._pool.hold(layer, expert):
                    self._plan[expert] = None
        absent = [expert for expert in wanted if self._pool.find(layer, expert) is None]
        nbytes = self._record_nbytes[layer]
        n_allowed = max(0, limit_nbytes - self.reading_nbytes) // max(1, nbytes)
        read: list[ExpertSlot] = []
        for expert in absent[:n_allowed]:
            slot = self._pool.reserve(layer, expert)
            if slot is None:
                break
            guess = _Guess(ExpertSlot(layer, expert, slot), nbytes, counters)
            self._plan[expert] = self._reading[slot] = guess
            counters.issued_nbytes += nbytes
            read.append(guess.read)
        return Speculation(tuple(read), cancel)

    def consume(self, lease: Lease) -> Consumption:
        """End the plan by the routing of a layer: match both as sets and let the rest go.

        A plan for another layer supplies nothing, and neither does a guess whose read failed.
        """
        supplied: set[int] = set()
        for entry in lease.late:
            guess = self._reading.pop(entry.slot, None)
            if guess is not None:
                guess.counters.late_nbytes += guess.nbytes
                self._drop(guess)
                supplied.add(entry.expert)
        if lease.layer == self._layer:
            for entry in lease.ready:
                guess = self._plan.pop(entry.expert, None)
                if guess is not None:
                    guess.counters.useful_nbytes += guess.nbytes
                    supplied.add(entry.expert)
        return Consumption(frozenset(supplied), self._end_plan())

    def invalidate(self) -> tuple[ExpertSlot, ...]:
        """Forget the plan. The reads under way are to be cancelled and waited for."""
        self._end_plan()
        return tuple(guess.read for guess in self._reading.values())

    def close(self) -> tuple[ExpertSlot, ...]:
        """Invalidate and refuse further plans."""
        self._closed = True
        return self.invalidate()

    def finished(self, slot: int) -> None:
        """The read into a slot delivered; ignored unless it is a guess that was not demanded."""
        guess = self._reading.pop(slot, None)
        if guess is not None and guess.spent:
            guess.counters.wasted_nbytes += guess.nbytes

    def failed(self, slot: int) -> None:
        """The read into a slot failed; ignored unless it is a guess that was not demanded."""
        guess = self._reading.pop(slot, None)
        if guess is not None:
            guess.counters.failed_nbytes += guess.nbytes
            self._drop(guess)

    def cancelled(self, slot: int) -> None:
        """The read into a slot was cancelled; ignored like `failed`."""
        guess = self._reading.pop(slot, None)
        if guess is not None:
            guess.counters.cancelled_nbytes += guess.nbytes
            self._drop(guess)

    def _drop(self, guess: _Guess) -> None:
        if self._plan.get(guess.read.expert) is guess:
            del self._plan[guess.read.expert]

    def _end_plan(self, keep: Collection[int] = ()) -> tuple[ExpertSlot, ...]:
        """End all guesses but those of experts in `keep`; returns the reads to cancel."""
        kept: dict[int, _Guess | None] = {}
        cancel: list[ExpertSlot] = []
        layer = self._layer
        if layer is None:
            return ()
        for expert, guess in self._plan.items():
            # A guess that demand evicted since is not kept, since it has to be read again.
            if expert in keep and self._pool.find(layer, expert) is not None:
                kept[expert] = guess
                continue
            self._pool.let_go(layer, expert)
            if guess is None:
                continue
            guess.spent = True
            if self._reading.get(guess.read.slot) is guess:
                cancel.append(guess.read)
            else:
                guess.counters.wasted_nbytes += guess.nbytes
        self._plan, self._layer = kept, (layer if kept else None)
        return tuple(cancel)
