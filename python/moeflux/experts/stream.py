"""Brings routed experts from disk into slots.

Joins the slot pool with native reads; knows no kernel and no model.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from moeflux._core import Device, File, ReadTicket
from moeflux.checkpoint import LayerExperts
from moeflux.errors import ReadCancelled, ReadError
from moeflux.experts.eviction import LFRU
from moeflux.experts.residency import ExpertResidency
from moeflux.experts.slots import Demand, ExpertSlot, Lease, SlotPool

SLOT_ALIGNMENT = 16 * 1024
RECENCY_TOKENS = 64


@dataclass
class StreamCounters:
    """What the experts cost so far: totals since loading."""

    bytes_read: int = 0
    hits: int = 0
    """Experts that were in a slot, ready, when they were routed to."""
    misses: int = 0
    wait_seconds: float = 0.0
    """Time the decode loop stood still for reads."""

    def snapshot(self) -> StreamCounters:
        return replace(self)

    def since(self, earlier: StreamCounters) -> StreamCounters:
        """What was added after `earlier` was taken."""
        return StreamCounters(
            *(getattr(self, field.name) - getattr(earlier, field.name) for field in fields(self))
        )


def slot_nbytes(layers: Iterable[LayerExperts | None]) -> int:
    """Bytes of one slot: the largest record of any layer, rounded up to 16 KiB."""
    largest = max((layer.record_nbytes for layer in layers if layer is not None), default=1)
    return -(-largest // SLOT_ALIGNMENT) * SLOT_ALIGNMENT


class ExpertStream:
    """All routed experts of a model, of which `n_slots` are in memory.

    A fetch pins its experts; release_oldest() and release_all() unpin them once the work that reads
    them has finished.
    """

    def __init__(
        self,
        device: Device,
        layers: Sequence[LayerExperts | None],
        top_k: int,
        n_slots: int,
        n_workers: int,
    ) -> None:
        self.top_k = top_k
        self.n_slots = n_slots
        self.slot_nbytes = slot_nbytes(layers)
        self.slots = device.buffer(n_slots * self.slot_nbytes)
        self.counters = StreamCounters()
        self._layers = tuple(layers)
        self._views = [
            self.slots.view(index * self.slot_nbytes, self.slot_nbytes) for index in range(n_slots)
        ]
        self._files = _open_files(layers)
        self._reads = device.read_pool(n_workers)
        self._residency = ExpertResidency(
            SlotPool(n_slots, top_k, LFRU(RECENCY_TOKENS * len(self._layers))),
            [layer.record_nbytes if layer is not None else 0 for layer in layers],
        )
        self._leases: deque[Lease] = deque()
        self._tickets: dict[int, ReadTicket] = {}

    def fetch(
        self, layer: int, experts: Sequence[int], demand: Demand = Demand.DECODE
    ) -> Mapping[int, int]:
        """The slot of each expert, read from disk where it is not there yet; pinned until released.

        Raises ReadError naming layer and expert; then nothing of this fetch stays pinned.
        """
        plan = self._residency.demand(layer, experts, demand)
        self._leases.append(plan.lease)
        self.counters.hits += len(plan.lease.ready)
        self.counters.misses += len(plan.lease.missed)
        for read in plan.read:
            self._submit(read)
        started = time.perf_counter()
        self._wait([*plan.read, *plan.promote])
        self.counters.wait_seconds += time.perf_counter() - started
        return plan.lease.slots

    def waves(self, layer: int, experts: Sequence[int]) -> list[tuple[int, ...]]:
        """The experts in groups, two of which fit the slots together; all at once if they fit."""
        width = self.n_slots if len(experts) <= self.n_slots else max(1, self.n_slots // 2)
        return self._residency.waves(layer, experts, width)

    def release_oldest(self) -> None:
        """Unpin the experts of the earliest fetch."""
        self._residency.release(self._leases.popleft())

    def release_all(self) -> None:
        """Unpin the experts of every fetch."""
        while self._leases:
            self.release_oldest()

    def drain(self) -> None:
        """Cancel reads that have not started and wait for those that have."""
        for slot, ticket in list(self._tickets.items()):
            ticket.cancel()
            self._settle(slot)

    def close(self) -> None:
        """Stop reading. Idempotent."""
        self.drain()
        self._reads.close()

    def _submit(self, read: ExpertSlot) -> None:
        layer = self._layers[read.layer]
        assert layer is not None
        ranges = [
            (self._files[part.path], part.offset, part.nbytes, part.record_offset)
            for part in layer.ranges(read.expert)
        ]
        self._tickets[read.slot] = self._reads.submit_ranges(ranges, self._views[read.slot])

    def _wait(self, reads: Sequence[ExpertSlot]) -> None:
        """Wait for all reads, also after one has failed; then raise the first failure."""
        failure: ReadError | None = None
        for read in reads:
            ticket = self._tickets.pop(read.slot)
            try:
                ticket.wait()
            except ReadError as error:
                self._residency.failed(read.slot)
                failure = failure or _of_expert(error, read)
            else:
                self._residency.finished(read.slot)
                self.counters.bytes_read += ticket.nbytes
        if failure is not None:
            raise failure

    def _settle(self, slot: int) -> None:
        """Wait for a cancelled read and report how it ended."""
        ticket = self._tickets.pop(slot)
        try:
            ticket.wait()
        except (ReadCancelled, ReadError):
            self._residency.cancelled(slot)
        else:
            self._residency.finished(slot)


def _open_files(layers: Iterable[LayerExperts | None]) -> dict[Path, File]:
    paths = {path for layer in layers if layer is not None for path in layer.paths}
    return {path: File(path) for path in sorted(paths)}


def _of_expert(error: ReadError, read: ExpertSlot) -> ReadError:
    """The same error, saying whose bytes were wanted."""
    named = ReadError(
        f"layer {read.layer} expert {read.expert}: {error}",
        error.path,
        error.offset,
        error.wanted,
        error.got,
        error.errno or 0,
    )
    named.__cause__ = error
    return named
