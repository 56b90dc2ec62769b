"""Records of whole experts in the host's memory, between the slots of a device and the drive.

For devices with memory of their own, where a copy is faster than a read. Decides whose record is
kept; moves no bytes. Inclusive: an expert that is copied into a slot keeps its record, so that the
experts that need no drive are as many as the larger of both tiers holds. The policy hears of what
had no slot only, so that records of experts that stay in slots fade.
"""

from __future__ import annotations

from dataclasses import dataclass

from moeflux._core import Buffer, Device
from moeflux.errors import ChecksumError
from moeflux.experts.eviction import EvictionPolicy
from moeflux.experts.lease import Demand, Lease, SlotsExhaustedError
from moeflux.experts.slots import SlotPool

BLOCK_NBYTES = 64 << 20
"""Page-locked at once, when the first of its records is needed: it takes as long as reading it."""


@dataclass(eq=False)
class Claim:
    """A record that one read goes through: pinned, so that nobody else gets it, until its end."""

    record: Buffer
    filled: bool
    """It has the expert's bytes: they are copied, and nothing is read."""
    lease: Lease
    index: int
    ended: bool = False


class RecordPool:
    """`n_records` records of `record_nbytes`, from whose memory copies to the device start."""

    def __init__(
        self, device: Device, n_records: int, record_nbytes: int, policy: EvictionPolicy
    ) -> None:
        self.n_records = n_records
        self._device = device
        self._record_nbytes = record_nbytes
        self._n_per_block = max(1, BLOCK_NBYTES // record_nbytes)
        self._blocks: dict[int, Buffer] = {}
        self._pool = SlotPool(n_records, 1, policy)

    @property
    def nbytes(self) -> int:
        """Of the host's memory, taken so far."""
        return sum(block.nbytes for block in self._blocks.values())

    def holds(self, layer: int, expert: int) -> bool:
        """Whether the expert has a record, filled or being filled."""
        return self._pool.find(layer, expert) is not None

    def claim(self, layer: int, expert: int, demand: Demand) -> Claim | None:
        """The expert's record, or one to be filled with it; None while reads use all of them.

        `layer` counts those with experts. Raises OutOfMemoryError.
        """
        try:
            lease = self._pool.acquire(layer, [expert], demand)
        except SlotsExhaustedError:
            return None
        if lease.late:  # a read that did not return in time still fills it
            self._pool.release(lease)
            return None
        (entry,) = (*lease.ready, *lease.missed)
        try:
            record = self._record(entry.slot)
        except BaseException:
            self._pool.lost(entry.slot)
            self._pool.release(lease)
            raise
        return Claim(record, bool(lease.ready), lease, entry.slot)

    def end(self, claim: Claim, failure: BaseException | None = None) -> None:
        """The read has ended, and nothing touches the record any more. Idempotent.

        One that a failed read was to fill is never reused as it is, nor one with wrong bytes.
        """
        if claim.ended:
            return
        claim.ended = True
        if not claim.filled:
            ended = self._pool.finished if failure is None else self._pool.lost
            ended(claim.index)
        elif isinstance(failure, ChecksumError):
            self._pool.spoil(claim.index)
        self._pool.release(claim.lease)

    def _record(self, index: int) -> Buffer:
        number, place = divmod(index, self._n_per_block)
        if number not in self._blocks:
            n_records = min(self._n_per_block, self.n_records - number * self._n_per_block)
            nbytes = n_records * self._record_nbytes
            self._blocks[number] = self._device.record_memory(nbytes)
        return self._blocks[number].view(place * self._record_nbytes, self._record_nbytes)
