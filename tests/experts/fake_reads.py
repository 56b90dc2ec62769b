"""Fakes under an expert stream: reads that end as told, a device and layers without bytes."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

from moeflux.errors import ReadCancelled, ReadError, ReadTimeoutError
from moeflux.experts.lease import Demand, ExpertSlot, SlotState
from moeflux.experts.read_mode import ReadModeChoice
from moeflux.experts.reads import ReadSettings

RECORD_NBYTES = 1 << 14
TIMEOUT = 60.0
FAILED = ReadError("read 0 of 9 bytes at offset 7 of layer.bin: I/O error", "layer.bin", 7, 9, 0, 5)
HUNG = ReadTimeoutError("not finished", "layer.bin", 7, 9)


@dataclass
class FakeTicket:
    """Ends when told, when waited for, or when cancelled before it has started."""

    outcome: Exception | None = None
    started: bool = False
    done: bool = False
    urgent: bool = False
    nbytes: int = RECORD_NBYTES
    seconds: float = 0.001

    def cancel(self) -> bool:
        if not self.started and not self.done:
            self.outcome, self.done = ReadCancelled("cancelled"), True
        return isinstance(self.outcome, ReadCancelled)

    def promote(self) -> None:
        self.urgent = True

    def finish(self) -> None:
        self.done = True


@dataclass
class FakeRead:
    expert: ExpertSlot
    ticket: FakeTicket
    submitted: float
    urgent: bool
    demand: Demand
    copied: bool = False


class FakeReads:
    """Reads that end as `outcomes` says, expert by expert and attempt by attempt; else well."""

    def __init__(self, *arguments: Any, **_others: Any) -> None:
        self.settings: ReadSettings = arguments[-1]
        self.outcomes: dict[tuple[int, int], deque[Exception]] = defaultdict(deque)
        self.submitted: list[FakeRead] = []
        self.waits: list[tuple[FakeRead, float]] = []
        self.refuse: set[tuple[int, int]] = set()
        self.closed = False
        self.mode = ReadModeChoice(direct=False, reason="asked for")

    def submit(self, expert: ExpertSlot, *, urgent: bool, demand: Demand) -> FakeRead:
        key = (expert.layer, expert.expert)
        if key in self.refuse:
            raise MemoryError("no memory for a ticket")
        outcome = self.outcomes[key].popleft() if self.outcomes[key] else None
        ticket = FakeTicket(outcome, started=outcome is HUNG, urgent=urgent)
        read = FakeRead(expert, ticket, 1000.0 * (1 + len(self.submitted)), urgent, demand)
        self.submitted.append(read)
        return read

    def wait(self, read: FakeRead, since: float) -> None:
        self.waits.append((read, since))
        if read.ticket.outcome is HUNG and not read.ticket.done:
            raise HUNG
        read.ticket.done = True
        if read.ticket.outcome is not None and read.ticket.outcome is not HUNG:
            raise read.ticket.outcome

    def close(self) -> None:
        for read in self.submitted:
            read.ticket.cancel()
            read.ticket.finish()
        self.closed = True

    def of(self, layer: int, expert: int) -> list[FakeRead]:
        return [read for read in self.submitted if read.expert[:2] == (layer, expert)]


class FakeBuffer:
    def populate(self) -> None:
        """All of it is there."""

    def view(self, _offset: int, _nbytes: int) -> FakeBuffer:
        return self


class FakeDevice:
    def buffer(self, _nbytes: int) -> FakeBuffer:
        return FakeBuffer()


@dataclass(frozen=True)
class FakeLayer:
    n_experts: int = 8
    record_nbytes: int = RECORD_NBYTES
    paths: tuple[str, ...] = field(default=())


@dataclass
class Streaming:
    """A stream, the fakes under it, and what both hold."""

    stream: Any
    reads: FakeReads

    def state(self, layer: int, expert: int) -> SlotState | None:
        pool = self.stream.residency.pool
        slot = pool.find(layer, expert)
        return None if slot is None else pool.state(slot)

    def recover(self) -> None:
        """As the runtime does after an error inside a step."""
        self.stream.invalidate()
        self.stream.release_all()

    def assert_nothing_is_held(self) -> None:
        assert self.stream.residency.drained
        assert len(self.stream._pending) == 0
