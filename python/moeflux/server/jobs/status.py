"""What a scheduler tells of itself: counts since its start and the jobs that it has."""

from __future__ import annotations

from dataclasses import dataclass

from moeflux.experts.counters import StreamCounters
from moeflux.server.jobs.job import Job, JobState


@dataclass
class WorkTotals:
    """Units of work of one kind, of all jobs together. Bytes are of experts."""

    n_units: int = 0
    n_tokens: int = 0
    seconds: float = 0.0
    """Of the thread that owns the model."""
    bytes_read: int = 0
    bytes_copied: int = 0
    """From the host's memory to a device with its own."""
    n_ready: int = 0
    """Routed experts that were in memory: of the same job before, or of another."""
    n_awaited: int = 0
    """Routed experts that were waited for."""

    @property
    def bytes_per_token(self) -> float:
        """What a token had to read: less, the more of its experts were in memory."""
        return self.bytes_read / self.n_tokens if self.n_tokens else 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.n_tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def hit_rate(self) -> float:
        """Share of routed experts that were in memory; 0 before any."""
        n_routed = self.n_ready + self.n_awaited
        return self.n_ready / n_routed if n_routed else 0.0

    def add(self, n_tokens: int, seconds: float, spent: StreamCounters) -> None:
        """One unit of work."""
        self.n_units += 1
        self.n_tokens += n_tokens
        self.seconds += seconds
        self.bytes_read += spent.bytes_read
        self.bytes_copied += spent.bytes_copied
        self.n_ready += spent.n_ready
        self.n_awaited += spent.n_late + spent.n_missed


@dataclass(frozen=True)
class JobStatus:
    """One job that has not ended."""

    number: int
    state: JobState
    n_prompt: int
    n_prefilled: int
    n_generated: int
    max_tokens: int

    @classmethod
    def of(cls, job: Job) -> JobStatus:
        request = job.request
        return cls(
            job.number,
            job.state,
            len(request.prompt_ids),
            job.n_prefilled,
            job.n_generated,
            request.limits.max_tokens,
        )


@dataclass(frozen=True)
class SchedulerStatus:
    """A scheduler at one moment; counts are since its start."""

    n_active: int
    n_queued: int
    max_active: int
    max_queued: int
    draining: bool
    n_finished: int
    n_cancelled: int
    n_failed: int
    n_refused: int
    """Submissions while the queue was full or the scheduler drained."""
    n_cached: int
    """Tokens of prompts that were restored instead of prefilled."""
    prefill: WorkTotals
    decode: WorkTotals
    jobs: tuple[JobStatus, ...]
    """Active ones in the order of their turns, then queued ones in theirs."""
