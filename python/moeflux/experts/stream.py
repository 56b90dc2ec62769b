"""Brings routed experts from disk into slots, ahead of time where that saves time.

Joins what decides (slots, prefetch, governor) with what reads. Knows no kernel and no model.
Inside, layers are those with experts, counted from 0; callers give a layer's index in the model.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from moeflux._core import Buffer, Device
from moeflux.checkpoint import LayerExperts
from moeflux.experts.counters import StreamCounters
from moeflux.experts.eviction import make_policy
from moeflux.experts.governor import Governor
from moeflux.experts.idle import IdleWindow
from moeflux.experts.lease import Demand, ExpertSlot, Lease
from moeflux.experts.pending_reads import PendingReads
from moeflux.experts.predict import NextRouter, make_predictor
from moeflux.experts.reads import ExpertReads, ReadSettings
from moeflux.experts.records import Records, make_records
from moeflux.experts.residency import ExpertResidency
from moeflux.experts.slots import SlotPool
from moeflux.experts.timeline import Timeline

SLOT_ALIGNMENT = 16 * 1024
WAVE_WIDTH = 32
"""Experts of one prefill wave; more would evict more of what decode has in memory."""
PREFETCH_MODES = ("off", "previous-token", "next-router", "combined", "auto")


@dataclass(frozen=True)
class StreamSettings:
    """How experts are kept and fetched; none of it changes what the model computes."""

    n_slots: int
    n_records: int = 0
    """Experts that the host's memory keeps, for a device that cannot address it."""
    eviction: str = "lfru"
    prefetch: str = "auto"
    """One of PREFETCH_MODES; "auto" is "next-router" while the governor finds that it pays."""
    reads: ReadSettings = field(default_factory=ReadSettings)

    def __post_init__(self) -> None:
        if self.prefetch not in PREFETCH_MODES:
            raise ValueError(
                f"prefetch must be one of {', '.join(PREFETCH_MODES)}, got {self.prefetch!r}"
            )


def slot_nbytes(layers: Iterable[LayerExperts | None]) -> int:
    """Bytes of one slot: the largest record of any layer, rounded up to 16 KiB."""
    largest = max((layer.record_nbytes for layer in layers if layer is not None), default=1)
    return -(-largest // SLOT_ALIGNMENT) * SLOT_ALIGNMENT


class Fetch:
    """The slots of a layer's demanded experts: of those in memory now, of the others by wait()."""

    def __init__(
        self, ready: Mapping[int, int], wait: Callable[[], Mapping[int, int]] | None = None
    ) -> None:
        self.ready = ready
        self._wait = wait

    @property
    def pending(self) -> bool:
        """Some are still being read."""
        return self._wait is not None

    def wait(self) -> Mapping[int, int]:
        """The slots of the others, when they are in memory. Raises ExpertReadError."""
        return self._wait() if self._wait is not None else {}


class ExpertStream:
    """All routed experts of a model, of which `n_slots` are in memory.

    A fetch pins its experts; release_oldest() and release_all() unpin them once the work that reads
    their slots has finished.
    """

    def __init__(
        self,
        device: Device,
        model_layers: Sequence[LayerExperts | None],
        top_k: int,
        settings: StreamSettings,
    ) -> None:
        layers = [layer for layer in model_layers if layer is not None]
        self.layer_indices = [
            index for index, layer in enumerate(model_layers) if layer is not None
        ]
        self._ordinal = {index: ordinal for ordinal, index in enumerate(self.layer_indices)}
        self.settings = settings
        self.top_k = top_k
        self.n_slots = settings.n_slots
        self.slot_nbytes = slot_nbytes(layers)
        self.slots: Buffer = device.buffer(self.n_slots * self.slot_nbytes)
        self.slots.populate()
        self.counters = StreamCounters.of_layers(len(layers))
        self.governor = Governor() if settings.prefetch == "auto" else None
        self.layer_sizes = tuple(layer.n_experts for layer in layers)
        self.n_experts = sum(self.layer_sizes)
        self._n_layers = len(layers)
        self._next_router = NextRouter(self._n_layers)
        views = [
            self.slots.view(index * self.slot_nbytes, self.slot_nbytes)
            for index in range(self.n_slots)
        ]
        self.records = self._make_records(device)
        self._reads = ExpertReads(
            device, dict(enumerate(layers)), views, settings.reads, records=self.records
        )
        self.read_mode = self._reads.mode
        self.record_nbytes = tuple(layer.record_nbytes for layer in layers)
        self._whole = self.n_slots >= self.n_experts
        self._known: list[dict[int, int]] = [{} for _ in layers]
        """With room for all experts none is ever evicted: the slots of those that were read."""
        policy = make_policy(settings.eviction, self.n_slots, top_k, self._n_layers)
        self._guesses = (
            None
            if self._whole
            else make_predictor(settings.prefetch, self._next_router, self._n_layers)
        )
        self.residency = ExpertResidency(
            SlotPool(self.n_slots, min(top_k, self.n_slots), policy),
            self.record_nbytes,
            self._guesses,
        )
        self._leases: deque[Lease | None] = deque()
        """Of each fetch that has not been released; None where nothing needed to be pinned."""
        self._pending = PendingReads(self._reads, self.residency, self.counters, self.layer_indices)
        self._idle = IdleWindow()
        self._idle_since: float | None = None
        self.demands: deque[tuple[int, Sequence[int]]] | None = None
        """Where demands are noted, layer and experts, for an onlooker."""

    @property
    def timeline(self) -> Timeline | None:
        """Where reads and waits are noted."""
        return self._pending.timeline

    @timeline.setter
    def timeline(self, timeline: Timeline | None) -> None:
        self._pending.timeline = timeline

    @property
    def wants_offers(self) -> bool:
        """Prefetch asks the next layer's router: offer() is to be called."""
        return self._guesses is not None and self.settings.prefetch != "previous-token"

    def offer(self, layer: int, ranked: Sequence[int]) -> None:
        """What the router of `layer` would choose from the layer before's state, best first."""
        self._next_router.offer(self._ordinal[layer], ranked)

    def begin_fetch(
        self, layer: int, experts: Sequence[int], demand: Demand = Demand.DECODE
    ) -> Fetch:
        """Pin experts of a layer until they are released, and start to read those not in memory."""
        started, ordinal = time.perf_counter(), self._ordinal[layer]
        if self.demands is not None:
            self.demands.append((ordinal, experts))
        if self._whole and (known := self._found(ordinal, experts, demand)) is not None:
            self._leases.append(None)
            return Fetch(known)
        if self._idle_since is not None and demand is Demand.DECODE:
            self._idle.record_idle(started - self._idle_since)
        self._pending.collect()
        plan = self.residency.demand(ordinal, experts, demand)
        self._leases.append(plan.lease)
        self._pending.cancel(plan.cancel)
        for expert in plan.read:
            self._pending.submit(expert, urgent=True, demand=demand)
        for expert in plan.promote:
            self._pending.promote(expert)
        ready = {expert.expert: expert.slot for expert in plan.lease.ready}
        if not plan.read and not plan.promote:
            self._end_fetch(plan.lease, 0.0, demand)
            return Fetch(ready)
        return Fetch(ready, lambda: self._wait(plan.lease, started, demand))

    def fetch(
        self, layer: int, experts: Sequence[int], demand: Demand = Demand.DECODE
    ) -> Mapping[int, int]:
        """The slot of each expert, once all are in memory; pinned until released.

        Raises ExpertReadError; the experts stay pinned until they are released all the same.
        """
        fetch = self.begin_fetch(layer, experts, demand)
        return {**fetch.ready, **fetch.wait()}

    def waves(self, layer: int, experts: Sequence[int]) -> list[tuple[int, ...]]:
        """The experts in groups, two of which fit the slots together."""
        width = max(1, min(WAVE_WIDTH, self.n_slots // 2))
        return self.residency.waves(self._ordinal[layer], experts, width)

    def begin_chunk(self) -> None:
        """A prefill chunk starts: end the guesses, since its waves may need their slots."""
        self.release_all()
        self._end_reads(self.residency.drain())

    def begin_token(self) -> None:
        """A decode step starts: guess the experts of its first layer."""
        self.release_all()
        self._speculate(0)

    def end_token(self, seconds: float) -> None:
        """A decode step took `seconds`; the governor judges prefetch by that."""
        self.release_all()
        self._idle_since = None  # what follows may be a pause
        if self.governor is not None and self._guesses is not None:
            self.governor.record(seconds)

    def settle(self) -> None:
        """Between tokens no guess is wanted: see how those under way end, so that bytes add up."""
        self._pending.settle()

    def release_oldest(self) -> None:
        """Unpin the experts of the earliest fetch."""
        lease = self._leases.popleft()
        if lease is not None:
            self.residency.release(lease)

    def release_all(self) -> None:
        """Unpin the experts of every fetch."""
        self._leases.clear()
        self.residency.pool.release_all()

    def invalidate(self) -> None:
        """End every read and forget what was predicted: for a new sequence, or after an error."""
        self._end_reads(self.residency.invalidate())
        self._idle_since = None
        if self.governor is not None:
            self.governor.restart_trial()

    def close(self) -> None:
        """Wait for the reads that run and stop. The device has finished. Idempotent."""
        self._pending.give_up(self.residency.close())
        self._reads.close()
        self._pending.settle()
        self.release_all()
        self.residency.pool.close()

    def _make_records(self, device: Device) -> Records | None:
        n_records = self.settings.n_records
        if n_records == 0:
            return None
        policy = make_policy(self.settings.eviction, n_records, 1, self._n_layers)
        return make_records(device, n_records, self.slot_nbytes, self.n_experts, policy)

    def _speculate(self, layer: int) -> None:
        if self._guesses is None or (self.governor is not None and not self.governor.enabled):
            return
        guess = self.residency.speculate(layer, self._idle.nbytes)
        self._pending.cancel(guess.cancel)
        for expert in guess.read:
            self._pending.submit(expert, urgent=False)

    def _end_reads(self, experts: Sequence[ExpertSlot]) -> None:
        self._pending.give_up(experts)
        self._pending.settle()

    def _found(self, layer: int, experts: Sequence[int], demand: Demand) -> dict[int, int] | None:
        """The slots, if all experts of the model have one and these have been read before."""
        slots, known = self._known[layer], {}
        for expert in experts:
            if expert not in slots:
                return None
            known[expert] = slots[expert]
        self.counters.n_ready += len(known)
        self.residency.counts[demand].add_ready(layer, len(known))
        return known

    def _wait(self, lease: Lease, began: float, demand: Demand) -> dict[int, int]:
        """The slots of the experts that were not in memory, when they are."""
        started, awaited = time.perf_counter(), (*lease.late, *lease.missed)
        self._pending.wait(awaited)
        ended = time.perf_counter()
        self._end_fetch(lease, ended - started, demand)
        self._idle.record_reads(len(awaited) * self.record_nbytes[lease.layer], ended - began)
        if self.timeline is not None:
            label = f"layer {self.layer_indices[lease.layer]}"
            self.timeline.add("wait for experts", label, started, ended)
        return {expert.expert: expert.slot for expert in awaited}

    def _end_fetch(self, lease: Lease, stalled: float, demand: Demand) -> None:
        """All experts are in memory; the drive is free for guesses, which would slow demands."""
        self.counters.add_fetch(lease, stalled)
        if self._whole:
            self._known[lease.layer].update(lease.slots)
        self._idle_since = time.perf_counter()
        if demand is Demand.DECODE:
            self._speculate(lease.layer + 1)
