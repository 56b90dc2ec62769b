"""Whose steps cost what: counters of the runtime, charged to the user whose steps moved them.

Sessions take turns on one runtime, whose counters only ever grow. The ledger reads them when the
turn goes to another account, so that a session that has the runtime for itself pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import zip_longest
from typing import Any

import psutil

from moeflux.engine.routes import RouteRecorder
from moeflux.experts.counters import StreamCounters
from moeflux.experts.governor import Decision
from moeflux.experts.predict import PredictionScore
from moeflux.experts.prefetch import GuessCounters
from moeflux.experts.timeline import Timeline


@dataclass
class Totals:
    """Everything that steps move, since loading or between two moments. Times in seconds."""

    stream: StreamCounters
    guesses: dict[str, GuessCounters]
    """Bytes of guesses, by predictor."""
    scores: dict[str, PredictionScore]
    """By predictor and part of a predictor."""
    device_wait_seconds: float
    """The host stood still for the device."""
    device_seconds: float
    """The device worked."""
    drive_nbytes: int | None
    """What the whole process had from drives; None where the system does not tell."""

    def copy(self) -> Totals:
        return self.since(self, times=0)

    def since(self, earlier: Totals, *, times: int = 1) -> Totals:
        """What was added after `earlier` was taken."""
        difference: Totals = _added(self, earlier, -times)
        return difference

    def plus(self, other: Totals) -> Totals:
        total: Totals = _added(self, other, 1)
        return total


@dataclass(eq=False)
class Account:
    """Steps done for one purpose: what they cost, and who else is told of them."""

    timeline: Timeline | None = None
    routes: RouteRecorder | None = None
    spent: Totals | None = None
    """None before the first step."""
    turn_wait_seconds: float = 0.0
    """Time that other sessions had the turn."""
    decisions: list[Decision] = field(default_factory=list)
    """Of the governor, made during these steps."""


class Ledger:
    """Credits accounts with what the counters have moved during their turns."""

    def __init__(self, read: Callable[[], Totals], decisions: Sequence[Decision]) -> None:
        """`read` gives the counters as they are, which may go on changing."""
        self._read = read
        self._decisions = decisions
        self._account: Account | None = None
        self._mark = read().copy()
        self._n_decisions = len(decisions)

    @property
    def account(self) -> Account | None:
        """Whose turn it is."""
        return self._account

    def switch(self, account: Account | None) -> None:
        """What follows is done for `account`; the caller has the turn."""
        self.settle()
        self._account = account

    def settle(self) -> None:
        """Credit the account whose turn it is with all until now; the caller has the turn."""
        now = self._read()
        if self._account is not None:
            spent, so_far = now.since(self._mark), self._account.spent
            self._account.spent = spent if so_far is None else so_far.plus(spent)
            self._account.decisions += self._decisions[self._n_decisions :]
        self._mark = now.copy()
        self._n_decisions = len(self._decisions)


def drive_nbytes() -> int | None:
    """Bytes that this process had from drives so far, reads of mapped files included."""
    try:
        counters = psutil.Process().io_counters()
    except (AttributeError, psutil.AccessDenied, NotImplementedError, FileNotFoundError):
        return None  # macOS has no such counters, and some containers hide them
    nbytes: int = counters.read_bytes
    return nbytes


def _added(mine: Any, other: Any, sign: int) -> Any:
    """`mine` plus `sign` times `other`, number by number; what one of them lacks counts as zero."""
    if mine is None or other is None:
        return None
    if is_dataclass(mine):
        values = {
            part.name: _added(getattr(mine, part.name), getattr(other, part.name), sign)
            for part in fields(mine)
        }
        kind: Any = type(mine)
        return kind(**values)
    if isinstance(mine, dict):
        zero = {key: type(value)() for key, value in (mine | other).items()}
        return {
            key: _added(mine.get(key, nothing), other.get(key, nothing), sign)
            for key, nothing in zero.items()
        }
    if isinstance(mine, list):
        return [_added(a, b, sign) for a, b in zip_longest(mine, other, fillvalue=0)]
    return mine + sign * other
