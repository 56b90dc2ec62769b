"""A recorded route trace, replayed, costs what the run that it was recorded from did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import moeflux
from moeflux.engine.account import Account
from moeflux.engine.routes import RouteRecorder, trace_header
from moeflux.experts.idle import IdleWindow
from moeflux.experts.lease import Demand, ExpertSlot
from moeflux.experts.reads import ExpertReads, Read
from moeflux.experts.replay import ReplayResult, ReplaySettings, replay
from moeflux.experts.trace import TokenRoutes, Trace, TraceWriter, load
from tiny_checkpoint import CheckpointFolders

PROMPT = [3 + (11 * index) % 250 for index in range(90)]
FOLLOW_UP = [5 + (7 * index) % 250 for index in range(20)]
N_DECODED = 20
N_LAYERS, N_EXPERTS, TOP_K = 4, 8, 2
NO_LIMIT = 1 << 40
PREDICTOR_OF = {"off": "none"}

Recorded = tuple[Trace, moeflux.Model]
RecordRun = Callable[..., Recorded]


@pytest.fixture
def record_run(tiny_folder: CheckpointFolders, monkeypatch: pytest.MonkeyPatch) -> RecordRun:
    """Runs two turns of a chat and a reset with a recorder; the trace and the closed model.

    Reads end before the layer goes on and guesses are not capped, as replay has it by default.
    """
    monkeypatch.setattr("moeflux.engine.budget.resident_memory", lambda: 0)
    monkeypatch.setattr(IdleWindow, "nbytes", NO_LIMIT)
    submit = ExpertReads.submit

    def submit_and_wait(
        reads: ExpertReads, expert: ExpertSlot, *, urgent: bool, demand: Demand
    ) -> Read:
        read = submit(reads, expert, urgent=urgent, demand=demand)
        read.ticket.wait()
        return read

    monkeypatch.setattr(ExpertReads, "submit", submit_and_wait)

    def run(n_slots: int, **settings: object) -> Recorded:
        folder = tiny_folder("qwen3_5_moe", "mlx")
        chosen = moeflux.Settings(prefill_chunk=64, **settings)  # type: ignore[arg-type]
        with moeflux.load(folder, device="cpu", settings=chosen) as probe:
            needs = probe.memory_needs
        memory = needs.fixed_nbytes + n_slots * needs.slot_nbytes
        tokens: list[TokenRoutes] = []
        with moeflux.load(folder, device="cpu", memory=memory, settings=chosen) as model:
            model.runtime.records_guesses = True
            session = model.session()
            session.account = Account(routes=RouteRecorder(tokens.append))
            for prompt in (PROMPT, FOLLOW_UP):
                logits = session.prefill(prompt)
                for _ in range(N_DECODED):
                    logits = session.decode(int(logits.argmax()))
            session.reset()
            session.prefill(FOLLOW_UP)
            session.decode(3)
            assert model.runtime.experts.n_slots == n_slots
            header = trace_header(model.config, model.runtime.experts)
        return Trace(header, tuple(tokens)), model

    return run


def replayed(trace: Trace, model: moeflux.Model) -> ReplayResult:
    settings = model.settings
    predictor = PREDICTOR_OF.get(settings.prefetch, settings.prefetch)
    n_slots = model.runtime.experts.n_slots
    return replay(trace, ReplaySettings(n_slots, settings.eviction, predictor, NO_LIMIT))


@pytest.mark.parametrize("prefetch", ["off", "previous-token", "next-router", "combined"])
@pytest.mark.parametrize("n_slots", [2, 3, 5, 8, 16, 27, 32])
def test_replay_counts_what_the_engine_counted(
    record_run: RecordRun, n_slots: int, prefetch: str
) -> None:
    trace, model = record_run(n_slots, prefetch=prefetch)
    residency, result = model.runtime.experts.residency, replayed(trace, model)
    assert result.decode == residency.counts[Demand.DECODE]
    assert result.prefill == residency.counts[Demand.PREFILL]
    assert result.read_nbytes == model.runtime.experts.counters.bytes_read
    if n_slots < N_LAYERS * N_EXPERTS:  # with all experts in memory the engine guesses nothing
        assert result.guesses == residency.prefetch.counters
        assert result.scores == residency.scores


@pytest.mark.parametrize("eviction", ["lru", "lfu", "lfru"])
def test_replay_counts_what_the_engine_counted_with_every_policy(
    record_run: RecordRun, eviction: str
) -> None:
    trace, model = record_run(13, prefetch="off", eviction=eviction)
    residency, result = model.runtime.experts.residency, replayed(trace, model)
    assert result.decode == residency.counts[Demand.DECODE]
    assert result.prefill == residency.counts[Demand.PREFILL]


def test_the_trace_does_not_depend_on_how_it_was_recorded(record_run: RecordRun) -> None:
    expected, _ = record_run(32, prefetch="off")
    for n_slots, prefetch in ((2, "off"), (9, "combined"), (9, "previous-token")):
        assert record_run(n_slots, prefetch=prefetch)[0] == expected


def test_tokens_carry_sequence_position_and_chunk(record_run: RecordRun) -> None:
    trace, _ = record_run(32)
    n_first = len(PROMPT) + len(FOLLOW_UP) + 2 * N_DECODED
    first = [token for token in trace.tokens if token.sequence == 0]
    second = [token for token in trace.tokens if token.sequence == 1]
    assert [token.position for token in first] == list(range(n_first))
    assert [token.position for token in second] == list(range(len(FOLLOW_UP) + 1))
    chunks = {token.chunk for token in first if token.prefill}
    # Chunks break at multiples of 64: the second prompt begins at 90 + 20.
    assert chunks == {0, 64, 110, 128}
    assert all(token.chunk == token.position for token in first if not token.prefill)


def test_predictions_come_from_the_layer_before_and_only_in_decode(record_run: RecordRun) -> None:
    trace, _ = record_run(32)
    for token in trace.tokens:
        lengths = [len(row) for row in token.predicted]
        assert lengths == ([0] * N_LAYERS if token.prefill else [0] + [TOP_K] * (N_LAYERS - 1))


def test_a_recorded_trace_is_written_and_read_unchanged(
    record_run: RecordRun, tmp_path: Path
) -> None:
    trace, _ = record_run(32)
    with TraceWriter(tmp_path / "a.trace", trace.header) as writer:
        for token in trace.tokens:
            writer.write(token)
    assert load(tmp_path / "a.trace") == trace


def test_a_step_that_fails_is_not_recorded(hybrid: moeflux.Model) -> None:
    tokens: list[TokenRoutes] = []
    session = hybrid.session()
    session.account = Account(routes=RouteRecorder(tokens.append))
    session.prefill([1, 2, 3])
    hybrid.runtime.experts.close()
    with pytest.raises(moeflux.MoefluxError):
        session.decode(4)
    assert [token.position for token in tokens] == [0, 1, 2]
