"""What the experts of a model cost: totals since loading, and differences between two moments."""

from __future__ import annotations

from dataclasses import dataclass, field

from moeflux.experts.lease import Lease


@dataclass
class StreamCounters:
    """Totals since loading. Bytes are of expert records, times in seconds."""

    bytes_read: int = 0
    """Delivered by reads, demanded or guessed, from the page cache or from the drive."""
    n_reads: int = 0
    bytes_copied: int = 0
    """Delivered by copies of records in the host's memory, without a read."""
    n_copies: int = 0
    n_failed_reads: int = 0
    """Attempts at reads and copies that failed, also where another attempt delivered."""
    n_ready: int = 0
    """Routed experts that were in memory."""
    n_late: int = 0
    """Routed experts whose guessed read was still under way."""
    n_missed: int = 0
    """Routed experts that nobody had begun to read."""
    stall_seconds: list[float] = field(default_factory=list)
    """Time that compute stood still for reads, by layer with experts."""

    @classmethod
    def of_layers(cls, n_layers: int) -> StreamCounters:
        """All zero."""
        return cls(stall_seconds=[0.0] * n_layers)

    def add_fetch(self, lease: Lease, seconds: float) -> None:
        """Count the experts of one layer and the time it waited for them."""
        self.n_ready += len(lease.ready)
        self.n_late += len(lease.late)
        self.n_missed += len(lease.missed)
        self.stall_seconds[lease.layer] += seconds

    def snapshot(self) -> StreamCounters:
        """A copy, to take differences from."""
        return self.combined(StreamCounters.of_layers(len(self.stall_seconds)), 1)

    def since(self, earlier: StreamCounters) -> StreamCounters:
        """What was added after `earlier` was taken."""
        return self.combined(earlier, -1)

    def combined(self, other: StreamCounters, sign: int) -> StreamCounters:
        """Each total plus `sign` times the other's."""
        pairs = zip(self.stall_seconds, other.stall_seconds, strict=True)
        return StreamCounters(
            self.bytes_read + sign * other.bytes_read,
            self.n_reads + sign * other.n_reads,
            self.bytes_copied + sign * other.bytes_copied,
            self.n_copies + sign * other.n_copies,
            self.n_failed_reads + sign * other.n_failed_reads,
            self.n_ready + sign * other.n_ready,
            self.n_late + sign * other.n_late,
            self.n_missed + sign * other.n_missed,
            [mine + sign * theirs for mine, theirs in pairs],
        )
