"""The timeline of a run: valid trace events, spans that nest, everything that happened in it."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import moeflux
from moeflux.engine.account import Account
from moeflux.experts.timeline import TRACKS, Timeline
from tiny_checkpoint import CheckpointFolders

N_TOKENS = 5
N_LAYERS, TOP_K = 4, 2

Events = list[dict[str, Any]]


def written(timeline: Timeline, folder: Path) -> tuple[Events, dict[int, str]]:
    """Spans as JSON has them, and the name of each row."""
    timeline.write(folder / "trace.json")
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    return [event for event in events if event["ph"] == "X"], names


@pytest.fixture
def streamed(
    tiny_folder: CheckpointFolders, monkeypatch: pytest.MonkeyPatch
) -> tuple[Timeline, moeflux.GenerationStats]:
    """A generation with few slots and prefetch, and its stats."""
    monkeypatch.setattr("moeflux.engine.budget.resident_memory", lambda: 0)
    folder = tiny_folder("qwen3_5_moe", "mlx")
    settings = moeflux.Settings(prefetch="combined")
    with moeflux.load(folder, device="cpu", settings=settings) as probe:
        needs = probe.memory_needs
    memory = needs.fixed_nbytes + 6 * needs.slot_nbytes
    timeline = Timeline()
    with moeflux.load(folder, device="cpu", memory=memory, settings=settings) as model:
        generation = model.generate("def main():", max_tokens=N_TOKENS, timeline=timeline)
        list(generation)
        return timeline, generation.stats


def test_every_event_has_what_the_format_wants(
    streamed: tuple[Timeline, moeflux.GenerationStats], tmp_path: Path
) -> None:
    spans, names = written(streamed[0], tmp_path)
    for span in spans:
        assert span["pid"] == 1
        assert span["name"]
        assert names[span["tid"]].startswith(span["cat"])
        assert span["cat"] in TRACKS
        assert span["ts"] >= 0
        assert span["dur"] >= 0
    assert min(span["ts"] for span in spans) == 0


def test_spans_of_a_row_never_overlap(
    streamed: tuple[Timeline, moeflux.GenerationStats], tmp_path: Path
) -> None:
    rows = defaultdict(list)
    for span in written(streamed[0], tmp_path)[0]:
        begin = round(1000 * span["ts"])
        rows[span["tid"]].append((begin, begin + round(1000 * span["dur"])))
    for spans in rows.values():
        spans.sort()
        assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))


def test_every_step_router_read_and_wait_has_a_span(
    streamed: tuple[Timeline, moeflux.GenerationStats],
) -> None:
    timeline, stats = streamed
    spans = defaultdict(list)
    for span in timeline.spans:
        spans[span.track].append(span)
    assert len(spans["steps"]) == 1 + N_TOKENS - 1
    assert len(spans["router"]) == N_LAYERS * N_TOKENS
    assert (
        len(spans["read"]) + len(spans["prefetch"]) == stats.prefill.n_reads + stats.decode.n_reads
    )
    waited = sum(span.end - span.begin for span in spans["wait for experts"])
    total = stats.prefill.read_wait_seconds + stats.decode.read_wait_seconds
    assert waited == pytest.approx(total, abs=1e-9)
    waited = sum(span.end - span.begin for span in spans["wait for device"])
    total = stats.prefill.device_wait_seconds + stats.decode.device_wait_seconds
    assert waited == pytest.approx(total, abs=1e-9)


def test_command_buffers_that_nobody_awaits_are_there_too(
    streamed: tuple[Timeline, moeflux.GenerationStats],
) -> None:
    timeline, stats = streamed
    spans = [span for span in timeline.spans if span.track == "command buffers"]
    decoded = sum(span.name.startswith("layer 2 experts") for span in spans)
    assert decoded >= N_TOKENS
    device = sum(float(span.facts["device_us"]) for span in spans) / 1e6
    total = stats.prefill.device_seconds + stats.decode.device_seconds
    assert device == pytest.approx(total, rel=1e-6)
    assert all(float(span.facts["queued_us"]) >= 0 for span in spans)


def test_kernels_lie_inside_their_command_buffers(
    streamed: tuple[Timeline, moeflux.GenerationStats],
) -> None:
    kernels = [span for span in streamed[0].spans if span.track == "kernels"]
    buffers = [span for span in streamed[0].spans if span.track == "command buffers"]
    assert {"matmul", "expert_gate_up", "expert_down", "attention"} <= {k.name for k in kernels}
    for kernel in kernels:
        assert any(b.begin <= kernel.begin and kernel.end <= b.end for b in buffers)


def test_host_and_device_share_a_clock(
    streamed: tuple[Timeline, moeflux.GenerationStats],
) -> None:
    steps = [span for span in streamed[0].spans if span.track == "steps"]
    for span in streamed[0].spans:
        if span.track == "command buffers" and span.name != "logits":
            assert any(step.begin <= span.begin and span.end <= step.end for step in steps)


def test_a_run_without_a_timeline_leaves_an_earlier_one_alone(hybrid: moeflux.Model) -> None:
    timeline = Timeline()
    list(hybrid.generate("a", max_tokens=2, timeline=timeline))
    n_spans = len(timeline.spans)
    list(hybrid.generate("a", max_tokens=2))
    assert len(timeline.spans) == n_spans > 0


def test_a_session_of_your_own_can_have_a_timeline(hybrid: moeflux.Model) -> None:
    session, timeline = hybrid.session(), Timeline()
    session.account = Account(timeline)
    session.prefill([1, 2, 3])
    session.decode(4)
    names = [span.name for span in timeline.spans if span.track == "steps"]
    assert names == ["prefill positions 0 to 2", "decode position 3"]


def test_command_buffers_without_timings_follow_each_other() -> None:
    timeline = Timeline()
    timeline.add_commands("first", 1.0, 0.5, [])
    timeline.add_commands("second", 1.2, 0.25, [])
    timeline.add_commands("third", 3.0, 0.125, [])
    spans = [(span.name, span.begin, span.end) for span in timeline.spans]
    assert spans == [("first", 1.0, 1.5), ("second", 1.5, 1.75), ("third", 3.0, 3.125)]


def test_reads_at_the_same_time_get_rows_of_their_own(tmp_path: Path) -> None:
    timeline = Timeline()
    for begin, end in ((0.0, 2.0), (1.0, 3.0), (2.0, 4.0)):
        timeline.add("read", "expert", begin, end, nbytes=7)
    spans, names = written(timeline, tmp_path)
    assert [names[span["tid"]] for span in spans] == ["read 1", "read 2", "read 1"]
    assert all(span["args"] == {"nbytes": 7} for span in spans)


def test_times_are_rounded_without_making_neighbours_overlap(tmp_path: Path) -> None:
    timeline = Timeline()
    edges = [index / 3e7 for index in range(200)]
    for begin, end in pairwise(edges):
        timeline.add("steps", "step", begin, end)
    spans, _ = written(timeline, tmp_path)
    ends = [round(1000 * (span["ts"] + span["dur"])) for span in spans]
    assert ends[:-1] == [round(1000 * span["ts"]) for span in spans[1:]]


def test_an_empty_timeline_is_valid(tmp_path: Path) -> None:
    assert written(Timeline(), tmp_path) == ([], {})
