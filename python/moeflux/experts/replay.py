"""What a route trace would cost with another pool, policy or predictor. Touches no device or disk.

Replay drives the same ExpertResidency as the expert stream, in the same order of calls, so that
its counts are those of a real run of the trace whose reads end at the same points. Reads end here
as follows: demanded ones before the layer goes on; guesses in order, `window_nbytes` of them
between one layer's demand and the next; of the cancelled ones all but one that has begun.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from moeflux.experts.eviction import (
    POLICY_NAMES,
    Belady,
    EvictionPolicy,
    make_policy,
    uses_by_expert,
)
from moeflux.experts.floor import check_floor
from moeflux.experts.lease import Demand, ExpertSlot, Lease
from moeflux.experts.predict import (
    Combined,
    NextRouter,
    PredictionScore,
    Predictor,
    PreviousToken,
)
from moeflux.experts.prefetch import GuessCounters
from moeflux.experts.residency import DemandCounts, ExpertResidency
from moeflux.experts.slots import SlotPool
from moeflux.experts.trace import TokenRoutes, Trace

BELADY = "belady"
PREDICTOR_NAMES = ("none", "previous-token", "next-router", "combined", "oracle")


@dataclass(frozen=True)
class ReplaySettings:
    """What to simulate.

    Raises ValueError for an unknown predictor; an unknown policy is found by `replay`.
    """

    n_slots: int
    policy: str = "lfru"
    """One of POLICY_NAMES, or "belady"."""
    predictor: str = "none"
    """One of PREDICTOR_NAMES; "next-router" is what the trace recorded, "oracle" is never wrong."""
    limit_nbytes: int = 0
    """Cap of the guesses under way."""
    window_nbytes: int | None = None
    """Bytes of guesses that the drive delivers per layer; None for any number."""
    wave_width: int = 32
    """Experts per prefill wave at most; two waves also have to fit the slots."""

    def __post_init__(self) -> None:
        """Check the predictor's name."""
        if self.predictor not in PREDICTOR_NAMES:
            names = ", ".join(PREDICTOR_NAMES)
            raise ValueError(f"predictor must be one of {names}, got {self.predictor!r}")


@dataclass(frozen=True)
class ReplayResult:
    """What the simulated run did."""

    settings: ReplaySettings
    decode: DemandCounts
    prefill: DemandCounts
    read_nbytes: int
    """Delivered, for demands and guesses."""
    guesses: dict[str, GuessCounters]
    scores: dict[str, PredictionScore]


@dataclass(frozen=True)
class SweepRow:
    """One point of hit rate against pool size."""

    policy: str
    n_slots: int
    share: float
    """Of all experts of the model."""
    hit_rate: float
    stall_rate: float
    read_nbytes: int


def replay(trace: Trace, settings: ReplaySettings) -> ReplayResult:
    """Run a trace through the expert slots.

    Raises SlotFloorError for fewer slots than top_k, ValueError for an unknown policy.
    """
    simulation = _Simulation(trace, settings)
    for tokens in _steps(trace.tokens):
        simulation.begin(tokens[0].sequence)
        if tokens[0].prefill:
            simulation.prefill(tokens)
        else:
            for token in tokens:
                simulation.decode(token)
    return simulation.result()


def sweep(
    trace: Trace, n_slots: Sequence[int], policies: Sequence[str] = (*POLICY_NAMES, BELADY)
) -> list[SweepRow]:
    """Decode hit rates without prefetch, a row per policy and pool size, in that order."""
    rows: list[SweepRow] = []
    n_all = trace.header.n_layers * trace.header.n_experts
    for policy in policies:
        for size in n_slots:
            result = replay(trace, ReplaySettings(size, policy))
            decode = result.decode
            rates = (decode.hit_rate, decode.stall_rate, result.read_nbytes)
            rows.append(SweepRow(policy, size, size / n_all, *rates))
    return rows


class _Simulation:
    def __init__(self, trace: Trace, settings: ReplaySettings) -> None:
        header = trace.header
        slot_nbytes = max(header.record_nbytes)
        check_floor(settings.n_slots * slot_nbytes, slot_nbytes, header.top_k)
        self._settings = settings
        self._record_nbytes = header.record_nbytes
        self._next_router, predictor = _predictors(settings.predictor, header.n_layers)
        pool = SlotPool(settings.n_slots, header.top_k, _policy(trace, settings))
        self._residency = ExpertResidency(pool, header.record_nbytes, predictor)
        self._leases: deque[Lease] = deque()
        self._queue: deque[ExpertSlot] = deque()
        self._begun: ExpertSlot | None = None
        """The guess whose read has begun and not ended."""
        self._read_nbytes = 0
        self._sequence: int | None = None

    def begin(self, sequence: int) -> None:
        """Start a step; a new sequence starts without predictions."""
        if sequence == self._sequence:
            return
        self._sequence = sequence
        self._release()
        self._cancel(self._residency.invalidate())

    def decode(self, token: TokenRoutes) -> None:
        """One token, layer by layer."""
        self._release()
        self._speculate(0, token)
        for layer, experts in enumerate(token.experts):
            self._release()
            self._demand(layer, experts, Demand.DECODE, token)

    def prefill(self, tokens: Sequence[TokenRoutes]) -> None:
        """One chunk: the experts of all its tokens per layer, in waves of which two are pinned."""
        self._release()
        self._cancel(self._residency.drain())
        width = max(1, min(self._settings.wave_width, self._settings.n_slots // 2))
        for layer in range(len(self._record_nbytes)):
            self._release()
            union = {expert for token in tokens for expert in token.experts[layer]}
            for wave in self._residency.waves(layer, union, width):
                while len(self._leases) > (1 if 2 * width <= self._settings.n_slots else 0):
                    self._residency.release(self._leases.popleft())
                self._demand(layer, wave, Demand.PREFILL, None)

    def result(self) -> ReplayResult:
        """End the run: reads that are still queued are cancelled."""
        self._release()
        self._cancel(self._residency.close())
        counts = self._residency.counts
        return ReplayResult(
            self._settings,
            counts[Demand.DECODE],
            counts[Demand.PREFILL],
            self._read_nbytes,
            self._residency.prefetch.counters,
            self._residency.scores,
        )

    def _demand(
        self, layer: int, experts: Sequence[int], demand: Demand, token: TokenRoutes | None
    ) -> None:
        plan = self._residency.demand(layer, experts, demand)
        self._leases.append(plan.lease)
        self._cancel(plan.cancel)
        for entry in plan.promote:
            self._queue.remove(entry)
        if token is not None:
            self._speculate(layer + 1, token)
        for entry in (*plan.read, *plan.promote):
            self._finish(entry)
        self._deliver()

    def _speculate(self, layer: int, token: TokenRoutes) -> None:
        if layer < len(token.experts):
            if self._settings.predictor == "oracle":
                self._next_router.offer(layer, token.experts[layer])
            elif token.predicted:
                self._next_router.offer(layer, token.predicted[layer])
        plan = self._residency.speculate(layer, self._settings.limit_nbytes)
        self._cancel(plan.cancel)
        self._queue.extend(plan.read)
        if layer == 0:
            self._deliver()

    def _release(self) -> None:
        while self._leases:
            self._residency.release(self._leases.popleft())

    def _deliver(self) -> None:
        """Let the drive read guesses for one window; every demand ends those that are left."""
        window = self._settings.window_nbytes
        self._begun = None
        while self._queue:
            nbytes = self._record_nbytes[self._queue[0].layer]
            if window is not None:
                if window < nbytes:
                    self._begun = self._queue[0] if window > 0 else None
                    return
                window -= nbytes
            self._finish(self._queue.popleft())

    def _cancel(self, reads: Iterable[ExpertSlot]) -> None:
        for entry in reads:
            self._queue.remove(entry)
            if entry == self._begun:
                self._finish(entry)
            else:
                self._residency.cancelled(entry.slot)

    def _finish(self, entry: ExpertSlot) -> None:
        self._read_nbytes += self._record_nbytes[entry.layer]
        self._residency.finished(entry.slot)


def _steps(tokens: Iterable[TokenRoutes]) -> Iterator[list[TokenRoutes]]:
    """The tokens that run together: a prefill chunk, or one token of decode."""

    def step(token: TokenRoutes) -> tuple[int, int, bool]:
        return token.sequence, token.chunk, token.prefill

    for _, group in groupby(tokens, step):
        yield list(group)


def _policy(trace: Trace, settings: ReplaySettings) -> EvictionPolicy:
    if settings.policy != BELADY:
        header = trace.header
        return make_policy(settings.policy, settings.n_slots, header.top_k, header.n_layers)
    decoded = (token for token in trace.tokens if not token.prefill)
    return Belady(uses_by_expert(pair for token in decoded for pair in enumerate(token.experts)))


def _predictors(name: str, n_layers: int) -> tuple[NextRouter, Predictor | None]:
    next_router, previous_token = NextRouter(n_layers), PreviousToken(n_layers)
    by_name: dict[str, Predictor | None] = {
        "none": None,
        "previous-token": previous_token,
        "next-router": next_router,
        "combined": Combined((next_router, previous_token)),
        "oracle": next_router,
    }
    return next_router, by_name[name]
