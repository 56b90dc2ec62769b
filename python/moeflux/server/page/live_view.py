"""What a server does at this moment, for the page: speed, reads, hits, jobs, memory, experts."""

from __future__ import annotations

import threading
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from moeflux.engine.model import Model
from moeflux.memory import peak_memory, resident_memory
from moeflux.server.jobs.status import SchedulerStatus
from moeflux.server.page.expert_map import ExpertFrame, ExpertMap

SHORTEST_LOOK = 0.1
"""Seconds for which a look is good: however many onlookers, there are no more looks than that."""
WINDOW = 2.0
"""Seconds that "now" reaches back; of work, further if none has ended since."""
LONGEST_WINDOW = 30.0


@dataclass(frozen=True)
class Sample:
    """Totals at one moment."""

    at: float
    """Seconds of a clock that never goes back."""
    n_decoded: int
    n_prefilled: int
    busy_seconds: float
    """Of the thread that owns the model."""
    bytes_read: int
    n_ready: int
    """Routed experts that were in memory."""
    n_awaited: int
    """Routed experts that were waited for."""

    @property
    def hit_rate(self) -> float | None:
        """Share of routed experts that were in memory; None before any."""
        n_routed = self.n_ready + self.n_awaited
        return self.n_ready / n_routed if n_routed else None


@dataclass(frozen=True)
class Rates:
    """Of the last seconds; None where nothing is known.

    Tokens are per second of work, so that pauses between requests do not count; bytes are per
    second, whatever is done in it.
    """

    decode: float | None = None
    prefill: float | None = None
    bytes_read: float | None = None
    hit_rate: float | None = None


class RecentTotals:
    """The samples of the last seconds."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()

    def add(self, now: Sample) -> Rates:
        """The rates up to this sample, which is later than all before."""
        samples = self._samples
        while samples and now.at - samples[0].at > LONGEST_WINDOW:
            samples.popleft()
        older = [sample for sample in samples if now.at - sample.at >= WINDOW]
        # Without a finished unit of work in it, a window would say that a slow model stands still.
        before_work = [sample for sample in older if sample.busy_seconds < now.busy_seconds]
        first = samples[0] if samples else now
        samples.append(now)
        return _rates(older[-1] if older else first, before_work[-1] if before_work else first, now)


def _rates(before: Sample, before_work: Sample, now: Sample) -> Rates:
    seconds, busy = now.at - before.at, now.busy_seconds - before_work.busy_seconds
    n_ready = now.n_ready - before_work.n_ready
    n_routed = n_ready + now.n_awaited - before_work.n_awaited
    return Rates(
        (now.n_decoded - before_work.n_decoded) / busy if busy > 0 else None,
        (now.n_prefilled - before_work.n_prefilled) / busy if busy > 0 else None,
        (now.bytes_read - before.bytes_read) / seconds if seconds > 0 else None,
        n_ready / n_routed if n_routed else None,
    )


class LiveView:
    """Looks at a model and at the scheduler that owns it; from any thread."""

    def __init__(
        self,
        model: Model,
        name: str,
        status: Callable[[], SchedulerStatus],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`name`: what requests call the model."""
        self._model, self._name, self._status, self._clock = model, name, status, clock
        self._map = ExpertMap(model.runtime.experts)
        self._recent = RecentTotals()
        self._lock = threading.Lock()
        self._looked_at = -SHORTEST_LOOK
        self._frame = ExpertFrame(-1, b"", 0, 0)
        self._fields: dict[str, Any] = {}

    def look(self, seen: int | None = None) -> dict[str, Any]:
        """Fields for JSON. `seen`: version of the cells that the onlooker has already."""
        with self._lock:
            now = self._clock()
            if now - self._looked_at >= SHORTEST_LOOK:
                self._look(now)
            fields, frame = self._fields, self._frame
        cells = None if seen == frame.version else b64encode(frame.cells).decode()
        return fields | {"experts": fields["experts"] | {"cells": cells}}

    def _look(self, now: float) -> None:
        status = self._status()
        sample = self._sample(now, status)
        rates = self._recent.add(sample)
        self._looked_at, self._frame = now, self._map.take()
        resident = resident_memory()
        self._fields = {
            "model": self._name,
            "device": self._model.device.name,
            "context_size": self._model.context_size,
            "jobs": {
                "n_active": status.n_active,
                "n_queued": status.n_queued,
                "max_active": status.max_active,
                "n_finished": status.n_finished,
            },
            "decode": {"n_tokens": sample.n_decoded, "tokens_per_second": rates.decode},
            "prefill": {"n_tokens": sample.n_prefilled, "tokens_per_second": rates.prefill},
            "reads": {
                "bytes": sample.bytes_read,
                "bytes_per_second": rates.bytes_read,
                "hit_rate": sample.hit_rate,
                "recent_hit_rate": rates.hit_rate,
            },
            "memory": {
                "resident": resident,
                "peak": max(resident, peak_memory()),
                "cap": self._model.runtime.memory_cap,
            },
            "experts": self._experts(self._frame),
        }

    def _sample(self, now: float, status: SchedulerStatus) -> Sample:
        counters = self._model.runtime.experts.counters
        return Sample(
            now,
            status.decode.n_tokens,
            status.prefill.n_tokens,
            status.decode.seconds + status.prefill.seconds,
            counters.bytes_read,
            counters.n_ready,
            counters.n_late + counters.n_missed,
        )

    def _experts(self, frame: ExpertFrame) -> dict[str, Any]:
        experts = self._model.runtime.experts
        return {
            "layers": experts.layer_indices,
            "layer_sizes": experts.layer_sizes,
            "n_slots": min(experts.n_slots, experts.n_experts),
            "slot_nbytes": experts.slot_nbytes,
            "n_resident": frame.n_resident,
            "n_reading": frame.n_reading,
            "version": frame.version,
        }
