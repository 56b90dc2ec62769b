"""Where the device's time goes: a table of command buffers by label, and of kernels."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moeflux.experts.timeline import Timeline

BETWEEN_KERNELS = "(between kernels)"
"""Row of the kernels' table: time of command buffers in which no kernel of theirs ran."""


@dataclass(frozen=True)
class ProfileRow:
    """Times recorded under one label, in nanoseconds."""

    count: int
    total_ns: int
    min_ns: int
    max_ns: int

    @property
    def mean_ns(self) -> float:
        return self.total_ns / self.count

    def plus(self, other: ProfileRow) -> ProfileRow:
        return ProfileRow(
            self.count + other.count,
            self.total_ns + other.total_ns,
            min(self.min_ns, other.min_ns),
            max(self.max_ns, other.max_ns),
        )


class ProfileTable:
    """Rows by label. Any thread may record."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[str, ProfileRow] = {}

    def record(self, label: str, nanoseconds: int) -> None:
        """Add one time; the first of a label is its minimum, also 0. ValueError below 0."""
        if nanoseconds < 0:
            raise ValueError(f"a time of {label!r} must not be negative, got {nanoseconds} ns")
        row = ProfileRow(1, nanoseconds, nanoseconds, nanoseconds)
        with self._lock:
            before = self._rows.get(label)
            self._rows[label] = row if before is None else before.plus(row)

    def rows(self) -> dict[str, ProfileRow]:
        """By label, the largest total first, equal ones by label."""
        with self._lock:
            rows = list(self._rows.items())
        return dict(sorted(rows, key=lambda item: (-item[1].total_ns, item[0])))

    @property
    def total_ns(self) -> int:
        """Of all rows."""
        return sum(row.total_ns for row in self.rows().values())

    def reset(self) -> None:
        """Forget all rows."""
        with self._lock:
            self._rows.clear()


class Profile:
    """Times of the command buffers that are committed inside: `with moeflux.profile() as p: ...`.

    Covers what its thread (its contextvars context) runs meanwhile, on any model. Layers get
    command buffers of their own, so that no row is a mixture. Can be entered again, and adds up.
    """

    def __init__(self, *, per_dispatch: bool = False, timeline: bool = False) -> None:
        """`per_dispatch` times each kernel too, which on a GPU costs a compute pass per kernel.

        `timeline` keeps every span for write_timeline, kernels included.
        """
        self.per_dispatch = per_dispatch
        self.timeline = Timeline() if timeline else None
        self.command_buffers = ProfileTable()
        """By label."""
        self.kernels = ProfileTable()
        """By name; with what is between them they add up to the command buffers."""
        self._scopes: list[Any] = []

    def record(self, label: str, nanoseconds: int) -> None:
        """Add the time of a command buffer, or of anything else on the device, under a label."""
        self.command_buffers.record(label, nanoseconds)

    def reset(self) -> None:
        """Forget all rows of both tables; the timeline stays."""
        self.command_buffers.reset()
        self.kernels.reset()

    def dump(self) -> list[tuple[str, ProfileRow]]:
        """Command buffers by label, the largest total first."""
        return list(self.command_buffers.rows().items())

    def add_commands(
        self, label: str, seconds: float, timings: Sequence[tuple[str, float, float]]
    ) -> None:
        """Record a finished command buffer; timings: kernel, begin and end in seconds."""
        total = _nanoseconds(seconds)
        self.record(label, total)
        if self.per_dispatch and timings:
            times = [(kernel, _nanoseconds(end - begin)) for kernel, begin, end in timings]
            for kernel, nanoseconds in times:
                self.kernels.record(kernel, nanoseconds)
            busy = sum(nanoseconds for _, nanoseconds in times)
            self.kernels.record(BETWEEN_KERNELS, max(0, total - busy))

    def to_dict(self) -> dict[str, Any]:
        """Both tables, the largest total first, for JSON."""
        return {
            "total_ns": self.command_buffers.total_ns,
            "command_buffers": _dicts(self.command_buffers),
            "kernels": _dicts(self.kernels),
        }

    def to_table(self, max_rows: int = 20) -> str:
        """Text: halves of all layers together, each label, and kernels; then what is left out."""
        rows = self.command_buffers.rows()
        tables = [_text("device time", _merged(rows), max_rows)]
        if len(_merged(rows)) < len(rows):
            tables.append(_text("by layer", rows, max_rows))
        if self.per_dispatch and self.kernels.rows():
            tables.append(_text("by kernel", self.kernels.rows(), max_rows))
        elif self.per_dispatch and rows:
            tables.append("by kernel: this device does not time its kernels\n")
        return "\n".join(tables)

    def write_timeline(self, path: Path) -> None:
        """Write the spans for Perfetto. ValueError for a profile that keeps none."""
        if self.timeline is None:
            raise ValueError("this profile keeps no timeline: make it with timeline=True")
        self.timeline.write(path)

    def __enter__(self) -> Profile:
        self._scopes.append(_current.set(self))
        return self

    def __exit__(self, *_: object) -> None:
        _current.reset(self._scopes.pop())


_current: ContextVar[Profile | None] = ContextVar("profile", default=None)


def profile(*, per_dispatch: bool = False, timeline: bool = False) -> Profile:
    """A profile to enter; see Profile."""
    return Profile(per_dispatch=per_dispatch, timeline=timeline)


def current_profile() -> Profile | None:
    """The profile that this thread is inside of, the innermost one."""
    return _current.get()


def _nanoseconds(seconds: float) -> int:
    return max(0, round(1e9 * seconds))


def _merged(rows: dict[str, ProfileRow]) -> dict[str, ProfileRow]:
    """Rows of "layer 0 mixer", "layer 1 mixer", ... as one, the largest total first."""
    merged: dict[str, ProfileRow] = {}
    for label, row in rows.items():
        first, _, rest = label.partition(" ")
        number, _, half = rest.partition(" ")
        name = half if first == "layer" and number.isdigit() and half else label
        merged[name] = merged[name].plus(row) if name in merged else row
    return dict(sorted(merged.items(), key=lambda item: (-item[1].total_ns, item[0])))


def _dicts(table: ProfileTable) -> list[dict[str, Any]]:
    return [
        {"label": label, **asdict(row), "mean_ns": row.mean_ns}
        for label, row in table.rows().items()
    ]


def _text(title: str, rows: dict[str, ProfileRow], max_rows: int) -> str:
    shown = list(rows.items())
    if len(shown) > max_rows:
        left = shown[max_rows:]
        rest = left[0][1]
        for _, row in left[1:]:
            rest = rest.plus(row)
        shown = [*shown[:max_rows], (f"({len(left)} more)", rest)]
    total = sum(row.total_ns for _, row in shown)
    width = max(len(label) for label in (title, "total", *(label for label, _ in shown)))
    return "\n".join(_lines(title, shown, total, width)) + "\n"


def _lines(
    title: str, rows: Iterable[tuple[str, ProfileRow]], total: int, width: int
) -> Iterator[str]:
    heads = ("count", "total ms", "share", "mean us", "min us", "max us")
    yield f"{title:<{width}}" + "".join(f"{head:>11}" for head in heads)
    count = 0
    for label, row in rows:
        count += row.count
        times = (row.mean_ns, row.min_ns, row.max_ns)
        yield (
            f"{label:<{width}}{row.count:>11}{row.total_ns / 1e6:>11.3f}"
            f"{row.total_ns / total if total else 0.0:>11.1%}"
            + "".join(f"{time / 1e3:>11.1f}" for time in times)
        )
    yield f"{'total':<{width}}{count:>11}{total / 1e6:>11.3f}"
