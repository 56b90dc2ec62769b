"""What one generation cost, and what bound it. Reads accounts; measures nothing itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from moeflux.engine.account import Account, Totals
from moeflux.experts.governor import Decision
from moeflux.experts.predict import PredictionScore
from moeflux.experts.prefetch import GuessCounters

Bound = Literal["disk", "memory", "compute", "host", "device"]

MEMORY_BOUND_SHARE = 0.5
"""Of the memory's read bandwidth: where weights stream faster than that, memory is what binds."""


@dataclass(frozen=True)
class PhaseStats:
    """The prefill or the decode steps of one generation. Times in seconds.

    `seconds` is the time inside the generation, not that of whoever consumes its events. It is the
    sum of read_wait_seconds, device_wait_seconds, turn_wait_seconds and host_seconds.
    """

    n_tokens: int = 0
    seconds: float = 0.0
    bytes_read: int = 0
    """Of experts, delivered by reads, from the page cache or from a drive."""
    drive_bytes_read: int | None = None
    """What the process had from drives meanwhile, also for other sessions and for weights in
    mapped files; None where the system does not tell."""
    n_reads: int = 0
    bytes_copied: int = 0
    """Of experts, copied to the device from records in the host's memory, without a read."""
    n_copies: int = 0
    n_failed_reads: int = 0
    experts_ready: int = 0
    """Routed experts that were in memory."""
    experts_late: int = 0
    """Routed experts whose guessed read was still under way."""
    experts_missed: int = 0
    """Routed experts that nobody had begun to read."""
    stall_seconds: Mapping[int, float] = field(default_factory=dict)
    """Time that each layer with experts waited for reads, by its index."""
    device_wait_seconds: float = 0.0
    """The host stood still for the device."""
    device_seconds: float = 0.0
    """The device worked; it may do so while the host works or waits for reads."""
    turn_wait_seconds: float = 0.0
    """Other sessions had the turn."""

    @property
    def tokens_per_second(self) -> float:
        return self.n_tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def hit_rate(self) -> float:
        """Share of routed experts that were in memory; 0 before any."""
        n_routed = self.experts_ready + self.experts_late + self.experts_missed
        return self.experts_ready / n_routed if n_routed else 0.0

    @property
    def read_wait_seconds(self) -> float:
        """Compute stood still for reads."""
        return sum(self.stall_seconds.values())

    @property
    def host_seconds(self) -> float:
        """Routing, slots, submissions, sampling, text: what is not waiting."""
        waited = self.read_wait_seconds + self.device_wait_seconds + self.turn_wait_seconds
        return max(0.0, self.seconds - waited)

    @property
    def host_share(self) -> float:
        """Of the time, 0 before any."""
        return self.host_seconds / self.seconds if self.seconds > 0 else 0.0

    @property
    def page_cache_bytes_read(self) -> int | None:
        """Expert bytes that did not come from a drive; None where the system does not tell."""
        if self.drive_bytes_read is None:
            return None
        return max(0, self.bytes_read - self.drive_bytes_read)

    def as_dict(self) -> dict[str, Any]:
        """Fields and derived values, for JSON."""
        derived = (
            "tokens_per_second",
            "hit_rate",
            "read_wait_seconds",
            "host_seconds",
            "host_share",
            "page_cache_bytes_read",
        )
        return asdict(self) | {name: getattr(self, name) for name in derived}


@dataclass(frozen=True)
class PredictorStats:
    """What a predictor of decode's experts guessed, and what became of the bytes it had read.

    Parts of a combined predictor have scores but no bytes, which are counted for the whole.
    """

    name: str
    recall: float
    """Share of routed experts that were predicted."""
    miss_recall: float
    """The same of those that would have been missed without a guess: what prefetch can save."""
    precision_by_rank: tuple[float, ...]
    """Share of guesses that were right, best rank first."""
    issued_nbytes: int = 0
    """Sum of the others and of guesses still open."""
    useful_nbytes: int = 0
    """In memory when their layer routed to them."""
    late_nbytes: int = 0
    """Routed to while they were still being read."""
    wasted_nbytes: int = 0
    """Read in full, and not routed to."""
    cancelled_nbytes: int = 0
    failed_nbytes: int = 0


@dataclass(frozen=True)
class GenerationStats:
    """What one generation cost: its own steps only, whatever other sessions did meanwhile.

    The first generated token's logits come from the prefill.
    """

    prompt_tokens: int
    generated_tokens: int
    prefill: PhaseStats
    decode: PhaseStats
    peak_memory_nbytes: int
    """Of the process, so far."""
    memory_cap_nbytes: int | None = None
    vram_cap_nbytes: int | None = None
    """Of the device's own memory."""
    n_slots: int = 0
    n_records: int = 0
    """Experts that the host's memory has room for, beside a device with memory of its own."""
    n_experts: int = 0
    """Routed experts of all layers together."""
    cached_tokens: int = 0
    """Of the prompt, restored from a stored prefix instead of prefilled."""
    weight_nbytes_per_token: int = 0
    """Weights that a decode step touches, those of its experts included."""
    predictors: tuple[PredictorStats, ...] = ()
    governor: tuple[Decision, ...] = ()
    """Whether prefetch was found to save time, and why."""
    lossy: tuple[str, ...] = ()
    """Settings that change what the model computes, such as activations=int8; empty by default."""

    @property
    def prefill_seconds(self) -> float:
        return self.prefill.seconds

    @property
    def decode_seconds(self) -> float:
        return self.decode.seconds

    @property
    def bytes_read(self) -> int:
        """Of experts, from the page cache or from a drive."""
        return self.prefill.bytes_read + self.decode.bytes_read

    @property
    def bytes_copied(self) -> int:
        """Of experts, from records in the host's memory."""
        return self.prefill.bytes_copied + self.decode.bytes_copied

    @property
    def prefill_tokens_per_second(self) -> float:
        return self.prefill.tokens_per_second

    @property
    def decode_tokens_per_second(self) -> float:
        return self.decode.tokens_per_second

    @property
    def weight_nbytes_per_second(self) -> float:
        """Weights per second of the device's work in decode; 0 before any."""
        touched = self.decode.n_tokens * self.weight_nbytes_per_token
        return touched / self.decode.device_seconds if self.decode.device_seconds > 0 else 0.0

    def bound(self, memory_nbytes_per_second: float | None = None) -> Bound:
        """What took most of the time: waiting for reads, the host's work, or the device's.

        "device" becomes "memory" or "compute" where the memory's read bandwidth is given: memory
        if decode took most of it and its weights came at MEMORY_BOUND_SHARE of that or more.
        """
        phases = (self.prefill, self.decode)
        seconds: dict[Bound, float] = {
            "disk": sum(phase.read_wait_seconds for phase in phases),
            "host": sum(phase.host_seconds for phase in phases),
            "device": sum(phase.device_wait_seconds for phase in phases),
        }
        bound = max(seconds, key=seconds.__getitem__)
        if bound != "device" or memory_nbytes_per_second is None:
            return bound
        if self.prefill.device_wait_seconds > self.decode.device_wait_seconds:
            return "compute"
        streams = self.weight_nbytes_per_second >= MEMORY_BOUND_SHARE * memory_nbytes_per_second
        return "memory" if streams else "compute"

    def as_dict(self, memory_nbytes_per_second: float | None = None) -> dict[str, Any]:
        """Fields and derived values, for JSON; the bandwidth is that of `bound`."""
        values = asdict(self)
        return values | {
            "prefill": self.prefill.as_dict(),
            "decode": self.decode.as_dict(),
            "bytes_read": self.bytes_read,
            "bytes_copied": self.bytes_copied,
            "weight_nbytes_per_second": self.weight_nbytes_per_second,
            "memory_nbytes_per_second": memory_nbytes_per_second,
            "bound": self.bound(memory_nbytes_per_second),
        }


def phase_stats(
    account: Account, n_tokens: int, seconds: float, layers: Sequence[int]
) -> PhaseStats:
    """What an account was charged with; `layers`: model indices of the layers with experts."""
    spent = account.spent
    if spent is None:
        return PhaseStats(n_tokens, seconds, turn_wait_seconds=account.turn_wait_seconds)
    stream = spent.stream
    return PhaseStats(
        n_tokens=n_tokens,
        seconds=seconds,
        bytes_read=stream.bytes_read,
        drive_bytes_read=spent.drive_nbytes,
        n_reads=stream.n_reads,
        bytes_copied=stream.bytes_copied,
        n_copies=stream.n_copies,
        n_failed_reads=stream.n_failed_reads,
        experts_ready=stream.n_ready,
        experts_late=stream.n_late,
        experts_missed=stream.n_missed,
        stall_seconds=dict(zip(layers, stream.stall_seconds, strict=True)),
        device_wait_seconds=spent.device_wait_seconds,
        device_seconds=spent.device_seconds,
        turn_wait_seconds=account.turn_wait_seconds,
    )


def predictor_stats(totals: Totals) -> tuple[PredictorStats, ...]:
    """Every predictor that was asked meanwhile, those with bytes first."""
    names = dict.fromkeys([*totals.guesses, *totals.scores])
    found = (
        _predictor(name, totals.scores.get(name, PredictionScore()), totals.guesses.get(name))
        for name in names
    )
    return tuple(found)


def _predictor(name: str, score: PredictionScore, guesses: GuessCounters | None) -> PredictorStats:
    nbytes = asdict(guesses or GuessCounters())
    del nbytes["n_present"]
    ranks = zip(score.n_right_by_rank, score.n_tried_by_rank, strict=True)
    precision = tuple(right / tried if tried else 0.0 for right, tried in ranks)
    return PredictorStats(name, score.recall, score.miss_recall, precision, **nbytes)
