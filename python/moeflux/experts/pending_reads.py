"""Reads into slots, from their submission until what became of them has been reported.

Every end of a read goes to the residency exactly once: delivered, failed or cancelled.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from moeflux.errors import DeviceError, ExpertReadError, ReadCancelled, ReadError
from moeflux.experts.counters import StreamCounters
from moeflux.experts.lease import Demand, ExpertSlot
from moeflux.experts.reads import ExpertReads, Read
from moeflux.experts.residency import ExpertResidency
from moeflux.experts.timeline import Timeline


class PendingReads:
    """The reads of one stream that are queued or running, by slot."""

    def __init__(
        self,
        reads: ExpertReads,
        residency: ExpertResidency,
        counters: StreamCounters,
        layer_indices: Sequence[int],
    ) -> None:
        """`layer_indices`: the model's index of each layer with experts, for people."""
        self.timeline: Timeline | None = None
        self._reads = reads
        self._residency = residency
        self._counters = counters
        self._layer_indices = layer_indices
        self._by_slot: dict[int, Read] = {}

    def __len__(self) -> int:
        return len(self._by_slot)

    def submit(self, expert: ExpertSlot, *, urgent: bool, demand: Demand = Demand.DECODE) -> None:
        """Start to bring an expert into its slot."""
        self._by_slot[expert.slot] = self._reads.submit(expert, urgent=urgent, demand=demand)

    def promote(self, expert: ExpertSlot) -> None:
        """Move a read ahead of all guesses."""
        self._by_slot[expert.slot].ticket.promote()

    def cancel(self, experts: Sequence[ExpertSlot]) -> None:
        for expert in experts:
            if expert.slot in self._by_slot:
                self._by_slot[expert.slot].ticket.cancel()

    def give_up(self, experts: Sequence[ExpertSlot]) -> None:
        """Cancel these reads; of one that an error kept from being submitted nothing will come."""
        self.cancel(experts)
        for expert in experts:
            if expert.slot not in self._by_slot:
                self._residency.cancelled(expert.slot)

    def collect(self) -> None:
        """Report the reads that have ended meanwhile."""
        for slot, read in list(self._by_slot.items()):
            if read.ticket.done:
                self._settle(slot)

    def settle(self) -> None:
        """Wait for all reads, each until it ends or its time is up, and report them."""
        for slot in list(self._by_slot):
            self._settle(slot)

    def wait(self, experts: Sequence[ExpertSlot]) -> None:
        """Wait for demanded reads, for all also after one has failed; then raise the first failure.

        Raises ExpertReadError, and DeviceError at once where bytes did not get to the device.
        """
        failure: ExpertReadError | None = None
        started = time.perf_counter()
        for expert in experts:
            try:
                self._deliver(expert, started)
            except ReadError as error:
                if failure is None:
                    index = self._layer_indices[expert.layer]
                    failure = ExpertReadError(index, expert.expert, error)
                    failure.__cause__ = error
        if failure is not None:
            raise failure

    def _deliver(self, expert: ExpertSlot, started: float) -> None:
        """See a demanded read through, again if it was cancelled as a guess or may be retried.

        Time counts from `started`, when the layer began to wait, or from a later submission.
        """
        attempts = 1 + self._reads.settings.n_retries
        while True:
            read = self._by_slot[expert.slot]
            try:
                self._reads.wait(read, max(started, read.submitted))
            except ReadCancelled:
                del self._by_slot[expert.slot]
                self._residency.cancelled(expert.slot)
            except (ReadError, DeviceError) as error:
                self._counters.n_failed_reads += 1
                if not read.ticket.done:
                    raise
                del self._by_slot[expert.slot]
                self._residency.failed(expert.slot)
                attempts -= 1
                if attempts == 0 or isinstance(error, DeviceError):
                    raise
            else:
                self._delivered(read)
                return
            self.submit(self._residency.retry(expert.slot), urgent=True, demand=read.demand)

    def _settle(self, slot: int) -> None:
        """Report how a read ended that nobody waits for; one that does not end keeps its slot."""
        read = self._by_slot[slot]
        try:
            self._reads.wait(read, read.submitted)
        except ReadCancelled:
            self._residency.cancelled(slot)
        except (ReadError, DeviceError):
            if not read.ticket.done:
                return
            self._counters.n_failed_reads += 1
            self._residency.failed(slot)
        else:
            self._delivered(read)
            return
        del self._by_slot[slot]

    def _delivered(self, read: Read) -> None:
        del self._by_slot[read.expert.slot]
        self._residency.finished(read.expert.slot)
        if read.copied:
            self._counters.bytes_copied += read.ticket.nbytes
            self._counters.n_copies += 1
        else:
            self._counters.bytes_read += read.ticket.nbytes
            self._counters.n_reads += 1
        if self.timeline is not None:
            name = ("copy" if read.copied else "read") if read.urgent else "prefetch"
            label = f"layer {self._layer_indices[read.expert.layer]} expert {read.expert.expert}"
            end = read.submitted + read.ticket.seconds
            self.timeline.add(name, label, read.submitted, end)
