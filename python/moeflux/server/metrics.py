"""What a server has done, for Prometheus. Each server has a registry of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from moeflux.engine.receipt import GenerationStats, PhaseStats
from moeflux.memory import peak_memory, resident_memory
from moeflux.server.answer_stream import Ending
from moeflux.server.jobs.status import SchedulerStatus

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class _Moment(Collector):
    """Values that are read when they are asked for."""

    def __init__(self, status: Callable[[], SchedulerStatus | None]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        values = {
            "moeflux_ready": ("1 while requests are taken.", float(status is not None)),
            "moeflux_memory_bytes": ("Of the process.", float(resident_memory())),
            "moeflux_peak_memory_bytes": ("Of the process, so far.", float(peak_memory())),
        }
        if status is not None:
            yield from _totals(status)
            values |= {
                "moeflux_requests_active": ("That generate now.", status.n_active),
                "moeflux_requests_queued": ("That wait.", status.n_queued),
                "moeflux_requests_max_active": ("Limit.", status.max_active),
                "moeflux_requests_max_queued": ("Limit.", status.max_queued),
            }
        for name, (text, value) in values.items():
            yield GaugeMetricFamily(name, text, value=value)


def _totals(status: SchedulerStatus) -> Iterator[Metric]:
    """What all work has read, also that of answers that nobody waited for."""
    nbytes = CounterMetricFamily("moeflux_expert_bytes_read", "Of experts.", labels=["phase"])
    copied = CounterMetricFamily(
        "moeflux_expert_bytes_copied", "Of experts, from RAM to the device.", labels=["phase"]
    )
    routed = CounterMetricFamily(
        "moeflux_experts_routed", "In memory (hits) or waited for.", labels=["phase", "found"]
    )
    worked = CounterMetricFamily("moeflux_work_tokens", "Computed.", labels=["phase"])
    seconds = CounterMetricFamily("moeflux_work_seconds", "Of computing.", labels=["phase"])
    for phase, total in (("prefill", status.prefill), ("decode", status.decode)):
        nbytes.add_metric([phase], total.bytes_read)
        copied.add_metric([phase], total.bytes_copied)
        routed.add_metric([phase, "ready"], total.n_ready)
        routed.add_metric([phase, "awaited"], total.n_awaited)
        worked.add_metric([phase], total.n_tokens)
        seconds.add_metric([phase], total.seconds)
    yield from (nbytes, copied, routed, worked, seconds)


class Metrics:
    """Counters of one server."""

    def __init__(self, status: Callable[[], SchedulerStatus | None]) -> None:
        """`status`: of the scheduler, None while there is none."""
        self.registry = CollectorRegistry()
        self.registry.register(_Moment(status))
        self._responses = self._counter("responses", "HTTP responses.", "path", "status")
        self._answers = self._counter("answers", "Generations that ended.", "api", "reason")
        self._tokens = self._counter(
            "tokens", "Of prompts, of these restored, and of answers.", "kind"
        )
        self._stalls = self._counter("expert_stall_seconds", "Compute waited for reads.", "phase")
        self._failed_reads = self._counter("expert_reads_failed", "Attempts.", "phase")
        self._guessed = self._counter("prefetch_bytes", "What became of guesses.", "outcome")
        self._first = self._histogram("time_to_first_token_seconds", "From submission.", _SECONDS)
        self._whole = self._histogram("answer_seconds", "From submission to the end.", _SECONDS)
        self._queue = self._histogram("queue_seconds", "Until the first work.", _SECONDS)
        self._per_token = self._histogram(
            "time_per_token_seconds", "Of an answer, after its first.", _TOKEN_SECONDS
        )
        started = Gauge("moeflux_started_seconds", "Since 1970.", registry=self.registry)
        started.set_to_current_time()

    def text(self) -> bytes:
        """All values, as Prometheus reads them."""
        return generate_latest(self.registry)

    def count_response(self, path: str, status: int) -> None:
        """A response to a request for a route; `path` is the route's, not the client's."""
        self._responses.labels(path, str(status)).inc()

    def meter(self, api: str) -> AnswerMeter:
        """Start to measure an answer."""
        return AnswerMeter(self, api)

    def count_answer(self, api: str, ending: Ending | None) -> None:
        """An answer that ended; None: cancelled or failed."""
        self._answers.labels(api, "unfinished" if ending is None else ending.reason).inc()
        if ending is None:
            return
        usage = ending.usage
        self._tokens.labels("prompt").inc(usage.prompt_tokens)
        self._tokens.labels("cached").inc(usage.cached_tokens)
        self._tokens.labels("answer").inc(usage.completion_tokens)
        if ending.stats is not None:
            self._count_stats(ending.stats)

    def observe(self, waited: float | None, first: float | None, whole: float, n: int) -> None:
        """Times of an answer of `n` tokens, in seconds since its submission."""
        if waited is not None:
            self._queue.observe(waited)
        if first is not None:
            self._first.observe(first)
            if n > 1:
                self._per_token.observe((whole - first) / (n - 1))
        self._whole.observe(whole)

    def _count_stats(self, stats: GenerationStats) -> None:
        self._count_phase("prefill", stats.prefill)
        self._count_phase("decode", stats.decode)
        for predictor in stats.predictors:
            for outcome in ("useful", "late", "wasted", "cancelled", "failed"):
                self._guessed.labels(outcome).inc(getattr(predictor, f"{outcome}_nbytes"))

    def _count_phase(self, name: str, phase: PhaseStats) -> None:
        self._stalls.labels(name).inc(phase.read_wait_seconds)
        self._failed_reads.labels(name).inc(phase.n_failed_reads)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"moeflux_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"moeflux_{name}", text, registry=self.registry, buckets=buckets)


class AnswerMeter:
    """Times one answer."""

    def __init__(self, metrics: Metrics, api: str) -> None:
        self._metrics, self._api = metrics, api
        self._submitted = time.perf_counter()
        self._waited: float | None = None
        self._first: float | None = None

    def work(self) -> None:
        """Something of it was computed."""
        if self._waited is None:
            self._waited = self._since()

    def token(self) -> None:
        """A token came."""
        self.work()
        if self._first is None:
            self._first = self._since()

    def end(self, ending: Ending | None) -> None:
        """It is over; None: before its end."""
        n = 0 if ending is None else ending.usage.completion_tokens
        self._metrics.observe(self._waited, self._first, self._since(), n)
        self._metrics.count_answer(self._api, ending)

    def _since(self) -> float:
        return time.perf_counter() - self._submitted
