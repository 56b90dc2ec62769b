"""One timeline of a run: steps, waits, router, command buffers, kernels, reads; for Perfetto."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TRACKS = (
    "steps",
    "router",
    "wait for experts",
    "wait for device",
    "command buffers",
    "kernels",
    "read",
    "prefetch",
)


@dataclass(frozen=True)
class Span:
    """Something that took from `begin` to `end`, in seconds of time.perf_counter."""

    track: str
    name: str
    begin: float
    end: float
    facts: Mapping[str, float | str] = field(default_factory=dict)
    """What else is known of it, shown when it is selected."""


class Timeline:
    """Spans by track; a run without one records nothing."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._device_free = 0.0

    def add(self, track: str, name: str, begin: float, end: float, **facts: float | str) -> None:
        """Record a span of a track (one of TRACKS)."""
        self.spans.append(Span(track, name, begin, end, facts))

    def add_commands(
        self,
        label: str,
        committed: float,
        device_seconds: float,
        timings: Sequence[tuple[str, float, float]],
    ) -> None:
        """Record a finished command buffer and its kernels; call it in the order of commits.

        timings: kernel, begin and end in seconds since the commit. Without them the command buffer
        is taken to have begun at its commit, or when the one before ended.
        """
        for kernel, begin, end in timings:
            self.add("kernels", kernel, committed + begin, committed + end)
        if timings:
            begin, end = committed + timings[0][1], committed + timings[-1][2]
        else:
            begin = max(committed, self._device_free)
            end = begin + device_seconds
        self._device_free = end
        facts = {"queued_us": 1e6 * (begin - committed), "device_us": 1e6 * device_seconds}
        self.add("command buffers", label, begin, end, **facts)

    def write(self, path: Path) -> None:
        """Write JSON in the Trace Event Format, which Perfetto opens. Replaces `path`."""
        start = min((span.begin for span in self.spans), default=0.0)
        rows = _Rows()
        events: list[dict[str, object]] = []
        for span in sorted(self.spans, key=lambda span: span.begin):
            # Ends are rounded like begins, lest a span reach into the next one of its row.
            begin, end = (round((time - start) * 1e9) for time in (span.begin, span.end))
            event = {"name": span.name, "cat": span.track, "ph": "X", "pid": 1}
            event |= {"tid": rows.row(span), "ts": begin / 1e3, "dur": (end - begin) / 1e3}
            events.append(event | ({"args": dict(span.facts)} if span.facts else {}))
        names: list[dict[str, object]] = [
            {"name": kind, "ph": "M", "pid": 1, "tid": row, "args": value}
            for row, name in rows.names()
            for kind, value in (
                ("thread_name", {"name": name}),
                ("thread_sort_index", {"sort_index": row}),
            )
        ]
        names.append({"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "moeflux"}})
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps({"traceEvents": names + events, "displayTimeUnit": "ms"}))
        partial.replace(path)


class _Rows:
    """Spans of one track that overlap get a row each, since a row can only nest them."""

    def __init__(self) -> None:
        self._ends: dict[str, list[float]] = {}

    def row(self, span: Span) -> int:
        ends = self._ends.setdefault(span.track, [])
        for index, end in enumerate(ends):
            if end <= span.begin:
                ends[index] = span.end
                return self._number(span.track, index)
        ends.append(span.end)
        return self._number(span.track, len(ends) - 1)

    def names(self) -> list[tuple[int, str]]:
        return [
            (self._number(track, index), f"{track} {index + 1}" if len(ends) > 1 else track)
            for track, ends in self._ends.items()
            for index in range(len(ends))
        ]

    def _number(self, track: str, index: int) -> int:
        order = TRACKS.index(track) if track in TRACKS else len(TRACKS)
        return 1000 * (order + 1) + index
