"""Decides whether prefetch pays, by the time that tokens take. Knows no predictor, bytes or clock.

A trial alternates windows of tokens with prefetch on and off, in the order on, off, off, on, so
that a drift in speed (a longer context, a warmer pool) weighs on both sides alike. The first tokens
of a window still feel the one before and are not counted. Medians are compared; prefetch is
switched only if the difference is clear, and trials become rarer as long as they change nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

_TRIAL = (True, False, False, True)


@dataclass(frozen=True)
class GovernorSettings:
    """Lengths in tokens; `margin` is the share of a token's time that makes a difference clear."""

    window: int = 8
    n_unjudged: int = 2
    """First tokens of a window that are not counted."""
    warm_up: int = 32
    """Tokens before the first trial, while the pool fills; prefetch is on."""
    interval: int = 256
    """From one trial to the next; doubles with each that changes nothing, up to `max_interval`."""
    max_interval: int = 4096
    margin: float = 0.02

    def __post_init__(self) -> None:
        """Raise ValueError for lengths that leave nothing to compare."""
        if not 0 <= self.n_unjudged < self.window:
            allowed = f"from 0 to window - 1 = {self.window - 1}"
            raise ValueError(f"n_unjudged must be {allowed}, got {self.n_unjudged}")
        if not 1 <= self.interval <= self.max_interval:
            allowed = f"from 1 to max_interval = {self.max_interval}"
            raise ValueError(f"interval must be {allowed}, got {self.interval}")
        if self.warm_up < 0 or not 0 <= self.margin < 1:
            raise ValueError(
                f"warm_up must not be negative and margin be from 0 to 1, "
                f"got {self.warm_up} and {self.margin}"
            )


@dataclass(frozen=True)
class Decision:
    """The outcome of a trial: what is in force from now on, and why."""

    token: int
    """Tokens recorded until then."""
    enabled: bool
    changed: bool
    seconds_on: float
    """Median per token with prefetch."""
    seconds_off: float
    saved: float
    """(seconds_off - seconds_on) / seconds_off"""
    reason: str


class Governor:
    """Whether the next token is to be decoded with prefetch: `enabled`."""

    def __init__(self, settings: GovernorSettings | None = None) -> None:
        self.settings = settings or GovernorSettings()
        self.decisions: list[Decision] = []
        self._in_force = True
        self._n_tokens = 0
        self._interval = self.settings.interval
        self._n_until_trial = self.settings.warm_up
        self._n_in_trial = 0
        self._seconds: dict[bool, list[float]] = {True: [], False: []}

    @property
    def enabled(self) -> bool:
        if self.in_trial:
            return _TRIAL[self._n_in_trial // self.settings.window]
        return self._in_force

    @property
    def in_trial(self) -> bool:
        return self._n_until_trial == 0

    def record(self, seconds: float) -> None:
        """The token that `enabled` applied to took this long. Raises ValueError unless positive."""
        if not (seconds > 0 and math.isfinite(seconds)):
            raise ValueError(f"seconds of a token must be positive and finite, got {seconds}")
        self._n_tokens += 1
        if not self.in_trial:
            self._n_until_trial -= 1
            return
        if self._n_in_trial % self.settings.window >= self.settings.n_unjudged:
            self._seconds[self.enabled].append(seconds)
        self._n_in_trial += 1
        if self._n_in_trial == len(_TRIAL) * self.settings.window:
            self._decide()

    def restart_trial(self) -> None:
        """Start the trial over: an error, a pause or a new sequence made its tokens unlike."""
        self._n_in_trial = 0
        self._seconds = {True: [], False: []}

    def _decide(self) -> None:
        on, off = median(self._seconds[True]), median(self._seconds[False])
        saved = (off - on) / off
        clear = abs(saved) > self.settings.margin
        enabled = saved > 0 if clear else self._in_force
        changed = enabled != self._in_force
        self.decisions.append(
            Decision(self._n_tokens, enabled, changed, on, off, saved, _reason(saved, clear))
        )
        self._in_force = enabled
        if changed:
            self._interval = self.settings.interval
        else:
            self._interval = min(2 * self._interval, self.settings.max_interval)
        self._n_until_trial = self._interval
        self.restart_trial()


def _reason(saved: float, clear: bool) -> str:
    if not clear:
        return f"no clear difference ({saved:+.1%} of a token's time saved)"
    return f"prefetch {'saves' if saved > 0 else 'costs'} {abs(saved):.1%} of a token's time"
