"""Page cache or direct reads: decides by a probe and by measurement. Reads nothing itself.

Any layout can be read directly: what is not aligned to 4 KiB passes through an aligned block, so
that only the aligned records of packed checkpoints go straight into their slots. What that costs
an untouched checkpoint is measured like all else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Protocol

from moeflux.errors import ReadTimeoutError

TRIAL_SECONDS = 0.2
TRIAL_NBYTES = 256 << 20
DIRECT_ADVANTAGE = 1.1
"""How much faster direct reads must be where the page cache keeps what the slots cannot hold."""
PAGE_CACHE_ADVANTAGE = 1.25
"""How much faster page cache reads must be where it can keep little, for all their copying."""

ExpertKey = tuple[int, int]
"""Layer and expert."""


class ReadMode(Enum):
    """Through the page cache or past it; AUTO is the faster of both, measured at loading."""

    PAGE_CACHE = "page-cache"
    DIRECT = "direct"
    AUTO = "auto"


@dataclass(frozen=True)
class ReadModeChoice:
    """What is used, and why."""

    direct: bool
    reason: str


class ReadTrial(Protocol):
    """The reads that the choice rests on."""

    def probe(self) -> None:
        """Read a little of every file directly. Raises OSError where that does not work."""

    def read(self, batch: Sequence[ExpertKey], *, direct: bool) -> int:
        """Read these experts at the same time; returns their bytes. Raises ReadError."""


def choose_read_mode(
    asked: ReadMode,
    trial: ReadTrial,
    batches: Iterable[Sequence[ExpertKey]],
    page_cache_share: float,
    clock: Callable[[], float] = time.perf_counter,
) -> ReadModeChoice:
    """The mode asked for, or the page cache where direct reads fail.

    AUTO reads `batches`, in which no expert comes twice, alternately in both modes, until it has
    spent its time or bytes. In doubt it takes the page cache if that can keep at least half of the
    experts without a slot (`page_cache_share`). A read that does not return raises
    ReadTimeoutError.
    """
    if asked is ReadMode.PAGE_CACHE:
        return ReadModeChoice(direct=False, reason="asked for")
    problem = "direct reads do not work"
    try:
        trial.probe()
        if asked is ReadMode.DIRECT:
            return ReadModeChoice(direct=True, reason="asked for")
        problem = "the trial of both modes failed"
        keeps = page_cache_share >= 0.5
        threshold = DIRECT_ADVANTAGE if keeps else 1 / PAGE_CACHE_ADVANTAGE
        return _measure(trial, batches, threshold, clock)
    except ReadTimeoutError:
        raise
    except OSError as error:
        return ReadModeChoice(direct=False, reason=f"{problem}: {error}")


def _measure(
    trial: ReadTrial,
    batches: Iterable[Sequence[ExpertKey]],
    threshold: float,
    clock: Callable[[], float],
) -> ReadModeChoice:
    """Direct reads if their speed is more than `threshold` times that of the page cache."""
    nbytes, seconds = {False: 0, True: 0}, {False: 0.0, True: 0.0}
    remaining = iter(batches)
    # Not timed: the first reads into new memory also wait for its pages.
    for first in islice(remaining, 1):
        trial.read(first, direct=False)
    for index, pair in enumerate(zip(remaining, remaining, strict=False)):
        # The order changes, so that neither mode always comes after the other.
        for batch, direct in zip(pair, (index % 2 == 1, index % 2 == 0), strict=True):
            started = clock()
            nbytes[direct] += trial.read(batch, direct=direct)
            seconds[direct] += clock() - started
        if sum(seconds.values()) >= TRIAL_SECONDS or sum(nbytes.values()) >= TRIAL_NBYTES:
            break
    if not nbytes[True]:
        return ReadModeChoice(direct=False, reason="too few experts to measure")
    speed = {direct: nbytes[direct] / max(seconds[direct], 1e-9) / 1e9 for direct in nbytes}
    return ReadModeChoice(
        direct=speed[True] > threshold * speed[False],
        reason=f"measured: page cache {speed[False]:.1f} GB/s, direct {speed[True]:.1f} GB/s",
    )
