"""One timeline of a run: reads, prefetch, waits, command buffers; opens in Perfetto."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

TRACKS = ("decode", "device", "router", "wait for experts", "read", "prefetch")


@dataclass(frozen=True)
class Span:
    """Something that took from `begin` to `end`, in seconds of time.perf_counter."""

    track: str
    name: str
    begin: float
    end: float


class Timeline:
    """Spans by track; a run without one records nothing."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def add(self, track: str, name: str, begin: float, end: float) -> None:
        """Record a span of a track (one of TRACKS)."""
        self.spans.append(Span(track, name, begin, end))

    def write(self, path: Path) -> None:
        """Write JSON in the Trace Event Format, which Perfetto opens. Replaces `path`."""
        start = min((span.begin for span in self.spans), default=0.0)
        rows = _Rows()
        events: list[dict[str, object]] = [
            {
                "name": span.name,
                "cat": span.track,
                "ph": "X",
                "ts": (span.begin - start) * 1e6,
                "dur": (span.end - span.begin) * 1e6,
                "pid": 1,
                "tid": rows.row(span),
            }
            for span in sorted(self.spans, key=lambda span: span.begin)
        ]
        names = [
            {"name": "thread_name", "ph": "M", "pid": 1, "tid": row, "args": {"name": name}}
            for row, name in rows.names()
        ]
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
