"""Progress of bytes on stderr: bars on a terminal, else a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as ProgressBar

from moeflux.checkpoint.convert_files import Progress
from moeflux.memory import format_size

PLAIN_STEPS = 20
"""Lines of progress where nobody watches a terminal."""

ShowProgress = Callable[[Progress], None]


@contextmanager
def byte_progress(*what: str) -> Iterator[list[ShowProgress]]:
    """One callback for each thing that is done meanwhile."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield [plain_lines(name) for name in what]
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with ProgressBar(*columns, console=console, transient=True) as bars:
        yield [_bar(bars, name) for name in what]


def plain_lines(what: str) -> ShowProgress:
    """A line for each step of PLAIN_STEPS."""
    shown = -1

    def show(progress: Progress) -> None:
        nonlocal shown
        step = PLAIN_STEPS * progress.done_nbytes // max(1, progress.total_nbytes)
        if step > shown:
            shown = step
            done, total = format_size(progress.done_nbytes), format_size(progress.total_nbytes)
            print(f"{what}: {done} of {total} ({progress.file})", file=sys.stderr, flush=True)

    return show


def _bar(bars: ProgressBar, what: str) -> ShowProgress:
    task = bars.add_task(what, total=None)

    def show(progress: Progress) -> None:
        bars.update(task, completed=progress.done_nbytes, total=progress.total_nbytes)

    return show
