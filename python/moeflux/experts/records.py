"""Records of whole experts in the host's memory, between the slots of a device and the drive.

For devices with memory of their own, where a copy is faster than a read. Decides whose record is
kept; moves no bytes. Inclusive: an expert that is copied into a slot keeps its record, so that the
experts that need no drive are as many as the larger of both tiers holds. The policy hears of what
had no slot only, so that records of experts that stay in slots fade. With room for all experts
nobody's record goes, and there is nothing to decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from moeflux._core import Buffer, Device
from moeflux.errors import ChecksumError
from moeflux.experts.eviction import EvictionPolicy, ExpertKey
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
    key: ExpertKey
    lease: Lease | None = None
    """Of a record that could go to another expert."""
    ended: bool = False


class RecordMemory:
    """Memory of the host for `n_records` records, taken in blocks when one of theirs is needed."""

    def __init__(self, device: Device, n_records: int, record_nbytes: int) -> None:
        self.n_records = n_records
        self._device = device
        self._record_nbytes = record_nbytes
        self._n_per_block = max(1, BLOCK_NBYTES // record_nbytes)
        self._blocks: dict[int, Buffer] = {}

    @property
    def nbytes(self) -> int:
        """Taken so far."""
        return sum(block.nbytes for block in self._blocks.values())

    def record(self, index: int) -> Buffer:
        """Raises OutOfMemoryError."""
        number, place = divmod(index, self._n_per_block)
        if number not in self._blocks:
            n_records = min(self._n_per_block, self.n_records - number * self._n_per_block)
            nbytes = n_records * self._record_nbytes
            self._blocks[number] = self._device.record_memory(nbytes)
        return self._blocks[number].view(place * self._record_nbytes, self._record_nbytes)


class Records(Protocol):
    """Who has a record."""

    @property
    def memory(self) -> RecordMemory: ...

    def holds(self, layer: int, expert: int) -> bool:
        """Whether the expert has a record, filled or being filled."""

    def claim(self, layer: int, expert: int, demand: Demand) -> Claim | None:
        """The expert's record, or one to be filled with it; None while reads use all of them.

        `layer` counts those with experts. Raises OutOfMemoryError.
        """

    def end(self, claim: Claim, failure: BaseException | None = None) -> None:
        """The read has ended, and nothing touches the record any more. Idempotent.

        One that a failed read was to fill is never reused as it is, nor one with wrong bytes.
        """


def make_records(
    device: Device, n_records: int, record_nbytes: int, n_experts: int, policy: EvictionPolicy
) -> Records:
    """Records for all experts, or for those that `policy` keeps."""
    memory = RecordMemory(device, n_records, record_nbytes)
    return AllRecords(memory) if n_records >= n_experts else RecordPool(memory, policy)


class AllRecords:
    """A record for every expert, in the order of their first reads."""

    def __init__(self, memory: RecordMemory) -> None:
        self.memory = memory
        self._records: dict[ExpertKey, Buffer] = {}
        self._filled: set[ExpertKey] = set()
        self._read: set[ExpertKey] = set()

    def holds(self, layer: int, expert: int) -> bool:
        return (layer, expert) in self._filled or (layer, expert) in self._read

    def claim(self, layer: int, expert: int, demand: Demand) -> Claim | None:  # noqa: ARG002
        key = layer, expert
        if key in self._read:  # a read that did not return in time still fills it
            return None
        record = self._records.get(key)
        if record is None:
            record = self._records[key] = self.memory.record(len(self._records))
        filled = key in self._filled
        if not filled:
            self._read.add(key)
        return Claim(record, filled, key)

    def end(self, claim: Claim, failure: BaseException | None = None) -> None:
        if claim.ended:
            return
        claim.ended = True
        if not claim.filled:
            self._read.discard(claim.key)
            if failure is None:
                self._filled.add(claim.key)
        elif isinstance(failure, ChecksumError):
            self._filled.discard(claim.key)


class RecordPool:
    """Records for fewer experts than there are: the policy says whose goes."""

    def __init__(self, memory: RecordMemory, policy: EvictionPolicy) -> None:
        self.memory = memory
        self._pool = SlotPool(memory.n_records, 1, policy)

    def holds(self, layer: int, expert: int) -> bool:
        return self._pool.find(layer, expert) is not None

    def claim(self, layer: int, expert: int, demand: Demand) -> Claim | None:
        try:
            lease = self._pool.acquire(layer, [expert], demand)
        except SlotsExhaustedError:
            return None
        if lease.late:  # a read that did not return in time still fills it
            self._pool.release(lease)
            return None
        (entry,) = (*lease.ready, *lease.missed)
        try:
            record = self.memory.record(entry.slot)
        except BaseException:
            self._pool.lost(entry.slot)
            self._pool.release(lease)
            raise
        return Claim(record, bool(lease.ready), (layer, expert), lease)

    def end(self, claim: Claim, failure: BaseException | None = None) -> None:
        if claim.ended or claim.lease is None:
            return
        claim.ended = True
        (entry,) = (*claim.lease.ready, *claim.lease.missed)
        if not claim.filled:
            ended = self._pool.finished if failure is None else self._pool.lost
            ended(entry.slot)
        elif isinstance(failure, ChecksumError):
            self._pool.spoil(entry.slot)
        self._pool.release(claim.lease)
