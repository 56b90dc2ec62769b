"""What is in memory and what to read next: the slot pool, prefetch and predictors as one.

Drives no device and no disk. The expert stream and the replay of route traces both drive this, so
that a simulated run and a real one count the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

from moeflux.experts.lease import Demand, ExpertSlot, Lease, SlotStateError
from moeflux.experts.predict import PredictionScore, Predictor
from moeflux.experts.prefetch import Prefetch, Speculation
from moeflux.experts.slot_contents import SlotContents
from moeflux.experts.slots import SlotPool


class DemandPlan(NamedTuple):
    """The lease of a demand, and what to do about reads, in this order."""

    lease: Lease
    read: tuple[ExpertSlot, ...]
    """To submit ahead of all guesses, and to wait for."""
    promote: tuple[ExpertSlot, ...]
    """Under way: to move ahead of all guesses, and to wait for."""
    cancel: tuple[ExpertSlot, ...]
    """Guesses that the layer did not route to: to cancel, not to wait for."""


@dataclass
class DemandCounts:
    """How demanded experts were found, by layer."""

    n_ready: list[int]
    n_late: list[int]
    n_missed: list[int]
    n_demands: list[int]
    n_stalled: list[int]
    """Demands with an expert that was not ready, for which the layer had to wait."""

    @classmethod
    def of_layers(cls, n_layers: int) -> DemandCounts:
        """All zero."""
        return cls(*([0] * n_layers for _ in fields(cls)))

    def add(self, lease: Lease) -> None:
        """Count one demand."""
        self.n_ready[lease.layer] += len(lease.ready)
        self.n_late[lease.layer] += len(lease.late)
        self.n_missed[lease.layer] += len(lease.missed)
        self.n_demands[lease.layer] += 1
        self.n_stalled[lease.layer] += bool(lease.late or lease.missed)

    def add_ready(self, layer: int, n_experts: int) -> None:
        """Count one demand, all of it ready."""
        self.n_ready[layer] += n_experts
        self.n_demands[layer] += 1

    @property
    def stall_rate(self) -> float:
        """Share of demands that had to wait; 0 before any."""
        return sum(self.n_stalled) / sum(self.n_demands) if sum(self.n_demands) else 0.0

    @property
    def hit_rate(self) -> float:
        """Share of demanded experts that were ready; 0 before any."""
        total = sum(self.n_ready) + sum(self.n_late) + sum(self.n_missed)
        return sum(self.n_ready) / total if total else 0.0


class ExpertResidency:
    """The experts of a model in a pool of slots.

    `record_nbytes` gives the bytes of one expert per layer. The end of every read that this object
    asked for is reported by exactly one of finished, failed and cancelled, in any order.
    """

    def __init__(
        self, pool: SlotPool, record_nbytes: Sequence[int], predictor: Predictor | None = None
    ) -> None:
        n_layers = len(record_nbytes)
        self.pool = pool
        self.contents = SlotContents(pool.n_slots)
        self.prefetch = Prefetch(pool, record_nbytes)
        self.counts = {demand: DemandCounts.of_layers(n_layers) for demand in Demand}
        self.scores: dict[str, PredictionScore] = {}
        """Of the predictor and its parts, by name; decode only."""
        self._predictor = predictor
        self._closed = False

    @property
    def drained(self) -> bool:
        """No read is under way and no slot pinned."""
        return not self.pool.loading and not self.pool.leases

    def demand(
        self, layer: int, experts: Sequence[int], demand: Demand = Demand.DECODE
    ) -> DemandPlan:
        """Pin the experts that a layer routes to, best first; a plan for any layer is consumed.

        Raises SlotsExhaustedError, and changes nothing, if there are too few slots.
        """
        self._check_open()
        lease = self.pool.acquire(layer, experts, demand)
        for entry in lease.missed:
            self.contents.reading(entry)
        consumption = self.prefetch.consume(lease)
        if demand is Demand.DECODE:
            missed = {entry.expert for entry in lease.missed}
            self._learn(layer, experts, missed | consumption.supplied)
        self.counts[demand].add(lease)
        return DemandPlan(lease, lease.missed, lease.late, consumption.cancel)

    def speculate(self, layer: int, limit_nbytes: int) -> Speculation:
        """Plan reads of the experts that `layer` will probably route to.

        At most `limit_nbytes` are under way for guesses at any time: what the drive can deliver
        while it has nothing demanded to read. Nothing comes past the last layer.
        """
        self._check_open()
        if self._predictor is None:
            return Speculation((), ())
        ranked = self._predictor.predict(layer)
        plan = self.prefetch.dispatch(layer, ranked, limit_nbytes, self._predictor.name)
        for entry in plan.read:
            self.contents.reading(entry)
        return plan

    def release(self, lease: Lease) -> None:
        """Unpin a lease, once the work that reads its slots has finished."""
        self.pool.release(lease)

    def finished(self, slot: int) -> None:
        """The read into the slot delivered all of its bytes."""
        self.pool.finished(slot)
        self.contents.arrived(slot)
        self.prefetch.finished(slot)

    def failed(self, slot: int) -> None:
        """The read into the slot failed. A slot that is pinned waits for `retry` or `release`."""
        self.pool.lost(slot)
        self.contents.lost(slot)
        self.prefetch.failed(slot)

    def cancelled(self, slot: int) -> None:
        """The read into the slot was cancelled. A slot that is pinned waits, as after `failed`."""
        self.pool.lost(slot)
        self.contents.lost(slot)
        self.prefetch.cancelled(slot)

    def retry(self, slot: int) -> ExpertSlot:
        """Submit this read again: the slot is pinned, and its read failed or was cancelled."""
        entry = self.pool.retry(slot)
        self.contents.reading(entry)
        return entry

    def waves(self, layer: int, experts: Iterable[int], width: int) -> list[tuple[int, ...]]:
        """The distinct experts in groups of at most `width`: those in memory first, ascending.

        They go first because the reads of later waves might evict them.
        """
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        distinct = sorted(set(experts))
        distinct.sort(key=lambda expert: self.pool.find(layer, expert) is None)
        return [tuple(distinct[start : start + width]) for start in range(0, len(distinct), width)]

    def drain(self) -> tuple[ExpertSlot, ...]:
        """End the plan; all reads under way, demanded ones too, are to be cancelled and awaited."""
        self.prefetch.invalidate()
        return self.pool.loading

    def invalidate(self) -> tuple[ExpertSlot, ...]:
        """Drain, and forget what was predicted: for a new sequence, a restored one, or an error."""
        if self._predictor is not None:
            self._predictor.forget()
        return self.drain()

    def close(self) -> tuple[ExpertSlot, ...]:
        """Invalidate and refuse further demands and guesses.

        The slots may be freed only after these reads and the device have ended, their ends were
        reported, leases were released, and `pool.close` has returned.
        """
        self._closed = True
        self.prefetch.close()
        return self.invalidate()

    def _check_open(self) -> None:
        if self._closed:
            raise SlotStateError("expert residency is closed")

    def _learn(self, layer: int, experts: Sequence[int], would_miss: set[int]) -> None:
        if self._predictor is None:
            return
        for predictor in (self._predictor, *self._predictor.parts):
            score = self.scores.setdefault(predictor.name, PredictionScore())
            score.record(predictor.predict(layer), experts, would_miss)
        self._predictor.record(layer, experts)
