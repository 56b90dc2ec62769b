"""Brings routed experts from disk into slots, ahead of time where that saves time.

Joins what decides (slots, prefetch, governor) with what reads. Knows no kernel and no model.
Inside, layers are those with experts, counted from 0; callers give a layer's index in the model.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from moeflux._core import Buffer, Device
from moeflux.checkpoint import LayerExperts
from moeflux.errors import ExpertReadError, ReadCancelled, ReadError
from moeflux.experts.counters import StreamCounters
from moeflux.experts.eviction import make_policy
from moeflux.experts.governor import Governor
from moeflux.experts.idle import IdleWindow
from moeflux.experts.lease import Demand, ExpertSlot, Lease
from moeflux.experts.predict import NextRouter, make_predictor
from moeflux.experts.reads import ExpertReads, Read, ReadSettings
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
    eviction: str = "lfru"
    prefetch: str = "auto"
    """One of PREFETCH_MODES; "auto" is "combined" while the governor finds that it saves time."""
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
        self.counters = StreamCounters.of_layers(len(layers))
        self.governor = Governor() if settings.prefetch == "auto" else None
        self.timeline: Timeline | None = None
        self.n_experts = sum(layer.n_experts for layer in layers)
        self._n_layers = len(layers)
        self._next_router = NextRouter(self._n_layers)
        views = [
            self.slots.view(index * self.slot_nbytes, self.slot_nbytes)
            for index in range(self.n_slots)
        ]
        self._reads = ExpertReads(device, dict(enumerate(layers)), views, settings.reads)
        self.read_mode = self._reads.mode
        self.record_nbytes = tuple(layer.record_nbytes for layer in layers)
        whole = self.n_slots >= sum(layer.n_experts for layer in layers)
        policy = make_policy(settings.eviction, self.n_slots, top_k, self._n_layers)
        self._guesses = (
            None if whole else make_predictor(settings.prefetch, self._next_router, self._n_layers)
        )
        self.residency = ExpertResidency(
            SlotPool(self.n_slots, min(top_k, self.n_slots), policy),
            self.record_nbytes,
            self._guesses,
        )
        self._leases: deque[Lease] = deque()
        self._under_way: dict[int, Read] = {}
        self._idle = IdleWindow()
        self._idle_since: float | None = None

    @property
    def wants_offers(self) -> bool:
        """Prefetch asks the next layer's router: offer() is to be called."""
        return self._guesses is not None and self.settings.prefetch != "previous-token"

    def offer(self, layer: int, ranked: Sequence[int]) -> None:
        """What the router of `layer` would choose from the layer before's state, best first."""
        self._next_router.offer(self._ordinal[layer], ranked)

    def fetch(
        self, layer: int, experts: Sequence[int], demand: Demand = Demand.DECODE
    ) -> Mapping[int, int]:
        """The slot of each expert, read from disk where it is not there yet; pinned until released.

        Reads that are guessed for the next layer go out behind those of this one. Raises
        ExpertReadError; the experts stay pinned until they are released all the same.
        """
        started, ordinal = time.perf_counter(), self._ordinal[layer]
        if self._idle_since is not None and demand is Demand.DECODE:
            self._idle.record_idle(started - self._idle_since)
        self._collect()
        plan = self.residency.demand(ordinal, experts, demand)
        self._leases.append(plan.lease)
        self._cancel(plan.cancel)
        for expert in plan.read:
            self._submit(expert, urgent=True)
        for expert in plan.promote:
            self._under_way[expert.slot].ticket.promote()
        wanted = [*plan.read, *plan.promote]
        self._wait(wanted)
        if demand is Demand.DECODE:
            self._speculate(ordinal + 1)
        ended = self._idle_since = time.perf_counter()
        self.counters.add_fetch(plan.lease, ended - started if wanted else 0.0)
        if wanted:
            self._idle.record_reads(len(wanted) * self.record_nbytes[ordinal], ended - started)
        if wanted and self.timeline is not None:
            self.timeline.add("wait for experts", f"layer {layer}", started, ended)
        return plan.lease.slots

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

    def release_oldest(self) -> None:
        """Unpin the experts of the earliest fetch."""
        self.residency.release(self._leases.popleft())

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
        self._give_up(self.residency.close())
        self._reads.close()
        for slot in list(self._under_way):
            self._settle(slot)
        self.release_all()
        self.residency.pool.close()

    def _speculate(self, layer: int) -> None:
        if self._guesses is None or (self.governor is not None and not self.governor.enabled):
            return
        guess = self.residency.speculate(layer, self._idle.nbytes)
        self._cancel(guess.cancel)
        for expert in guess.read:
            self._submit(expert, urgent=False)

    def _submit(self, expert: ExpertSlot, *, urgent: bool) -> None:
        self._under_way[expert.slot] = self._reads.submit(expert, urgent=urgent)

    def _cancel(self, experts: Sequence[ExpertSlot]) -> None:
        for expert in experts:
            if expert.slot in self._under_way:
                self._under_way[expert.slot].ticket.cancel()

    def _give_up(self, experts: Sequence[ExpertSlot]) -> None:
        """Cancel these reads; of one that an error kept from being submitted nothing will come."""
        self._cancel(experts)
        for expert in experts:
            if expert.slot not in self._under_way:
                self.residency.cancelled(expert.slot)

    def _end_reads(self, experts: Sequence[ExpertSlot]) -> None:
        self._give_up(experts)
        for slot in list(self._under_way):
            self._settle(slot)

    def _collect(self) -> None:
        """Report the reads that have ended meanwhile."""
        for slot, read in list(self._under_way.items()):
            if read.ticket.done:
                self._settle(slot)

    def _wait(self, experts: Sequence[ExpertSlot]) -> None:
        """Wait for all demanded reads, also after one has failed; then raise the first failure."""
        failure: ExpertReadError | None = None
        started = time.perf_counter()
        for expert in experts:
            try:
                self._deliver(expert, started)
            except ReadError as error:
                if failure is None:
                    index = self.layer_indices[expert.layer]
                    failure = ExpertReadError(index, expert.expert, error)
                    failure.__cause__ = error
        if failure is not None:
            raise failure

    def _deliver(self, expert: ExpertSlot, started: float) -> None:
        """See a demanded read through, again if it was cancelled as a guess or may be retried.

        Time counts from `started`, when the layer began to wait, or from a later submission.
        """
        attempts = 1 + self.settings.reads.n_retries
        while True:
            read = self._under_way[expert.slot]
            try:
                self._reads.wait(read, max(started, read.submitted))
            except ReadCancelled:
                del self._under_way[expert.slot]
                self.residency.cancelled(expert.slot)
            except ReadError:
                self.counters.n_failed_reads += 1
                if not read.ticket.done:
                    raise
                del self._under_way[expert.slot]
                self.residency.failed(expert.slot)
                attempts -= 1
                if attempts == 0:
                    raise
            else:
                self._delivered(read)
                return
            self._submit(self.residency.retry(expert.slot), urgent=True)

    def _settle(self, slot: int) -> None:
        """Report how a read ended that nobody waits for; one that does not end keeps its slot."""
        read = self._under_way[slot]
        try:
            self._reads.wait(read, read.submitted)
        except ReadCancelled:
            self.residency.cancelled(slot)
        except ReadError:
            if not read.ticket.done:
                return
            self.counters.n_failed_reads += 1
            self.residency.failed(slot)
        else:
            self._delivered(read)
            return
        del self._under_way[slot]

    def _delivered(self, read: Read) -> None:
        del self._under_way[read.expert.slot]
        self.residency.finished(read.expert.slot)
        self.counters.bytes_read += read.ticket.nbytes
        self.counters.n_reads += 1
        if self.timeline is not None:
            name = "read" if read.urgent else "prefetch"
            label = f"layer {self.layer_indices[read.expert.layer]} expert {read.expert.expert}"
            end = read.submitted + read.ticket.seconds
            self.timeline.add(name, label, read.submitted, end)
