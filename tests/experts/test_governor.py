"""The governor: prefetch is judged by time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from moeflux.experts.governor import Governor, GovernorSettings

SMALL = GovernorSettings(window=4, n_unjudged=1, warm_up=3, interval=10, max_interval=40)
TRIAL = 4 * SMALL.window


def run(governor: Governor, n_tokens: int, seconds: Callable[[bool], float]) -> list[bool]:
    """Decode tokens that take `seconds(prefetch)`; returns whether each had prefetch."""
    modes = []
    for _ in range(n_tokens):
        modes.append(governor.enabled)
        governor.record(seconds(governor.enabled))
    return modes


def faster(enabled: bool) -> float:
    return 0.8 if enabled else 1.0


def slower(enabled: bool) -> float:
    return 1.1 if enabled else 1.0


def same(_enabled: bool) -> float:
    return 1.0


def test_a_trial_interleaves_windows_on_off_off_on() -> None:
    modes = run(Governor(SMALL), SMALL.warm_up + TRIAL, same)
    assert modes == [True] * 3 + [True] * 4 + [False] * 8 + [True] * 4


def test_prefetch_stays_on_where_it_saves_time() -> None:
    governor = Governor(SMALL)
    run(governor, SMALL.warm_up + TRIAL, faster)
    (decision,) = governor.decisions
    assert decision.enabled
    assert governor.enabled
    assert decision.saved == pytest.approx(0.2)
    assert decision.reason == "prefetch saves 20.0% of a token's time"


def test_prefetch_is_switched_off_where_it_costs_time() -> None:
    governor = Governor(SMALL)
    run(governor, SMALL.warm_up + TRIAL, slower)
    (decision,) = governor.decisions
    assert (decision.enabled, decision.changed) == (False, True)
    assert (decision.seconds_on, decision.seconds_off) == (1.1, 1.0)
    assert decision.reason == "prefetch costs 10.0% of a token's time"
    assert run(governor, SMALL.interval, slower) == [False] * SMALL.interval


def test_prefetch_is_switched_on_again_once_it_pays() -> None:
    governor = Governor(SMALL)
    run(governor, SMALL.warm_up + TRIAL, slower)
    run(governor, SMALL.interval + TRIAL, faster)
    assert [decision.enabled for decision in governor.decisions] == [False, True]
    assert governor.enabled


@pytest.mark.parametrize("before", [faster, slower])
def test_an_unclear_difference_changes_nothing(before: Callable[[bool], float]) -> None:
    governor = Governor(SMALL)
    run(governor, SMALL.warm_up + TRIAL, before)
    in_force = governor.enabled
    run(governor, SMALL.interval * 2 + TRIAL, lambda enabled: 1.0 + 0.01 * enabled)
    assert governor.enabled is in_force
    assert governor.decisions[-1].changed is False
    assert governor.decisions[-1].reason == "no clear difference (-1.0% of a token's time saved)"


def test_trials_become_rarer_while_they_change_nothing() -> None:
    governor = Governor(SMALL)
    run(governor, 400, same)
    tokens = [decision.token for decision in governor.decisions]
    gaps = [later - earlier - TRIAL for earlier, later in pairwise(tokens)]
    assert gaps[:3] == [20, 40, 40]


def test_trials_are_frequent_again_after_a_change() -> None:
    governor = Governor(SMALL)
    run(governor, SMALL.warm_up + TRIAL + 20 + TRIAL + 40, same)
    run(governor, TRIAL, slower)
    assert governor.decisions[-1].changed
    run(governor, SMALL.interval + TRIAL, slower)
    assert governor.decisions[-1].token - governor.decisions[-2].token == SMALL.interval + TRIAL


def test_one_stalled_token_does_not_decide() -> None:
    governor = Governor(SMALL)
    times = iter([1.0] * (SMALL.warm_up + 2) + [500.0])
    run(governor, SMALL.warm_up + TRIAL, lambda on: next(times, faster(on)))
    assert governor.decisions[0].enabled


def test_the_first_tokens_of_a_window_are_not_judged() -> None:
    governor = Governor(replace(SMALL, n_unjudged=2))
    count = iter(range(10_000))

    def seconds(enabled: bool) -> float:
        index = next(count) - SMALL.warm_up
        return 100.0 if index % SMALL.window < 2 else faster(enabled)

    run(governor, SMALL.warm_up + TRIAL, seconds)
    assert governor.decisions[0].seconds_on == 0.8
    assert governor.decisions[0].seconds_off == 1.0


def test_a_steady_drift_in_speed_does_not_look_like_a_difference() -> None:
    governor = Governor(SMALL)
    count = iter(range(10_000))
    run(governor, SMALL.warm_up + TRIAL, lambda _: 1.0 + 0.05 * next(count))
    assert abs(governor.decisions[0].saved) < SMALL.margin


def test_warm_up_tokens_are_not_judged() -> None:
    governor = Governor(SMALL)
    run(governor, SMALL.warm_up, lambda _: 100.0)
    run(governor, TRIAL, faster)
    assert governor.decisions[0].seconds_on == 0.8


def test_a_restarted_trial_forgets_its_tokens() -> None:
    governor = Governor(SMALL)
    run(governor, SMALL.warm_up + 6, lambda _: 100.0)
    governor.restart_trial()
    run(governor, TRIAL, faster)
    assert governor.decisions[0].seconds_on == 0.8


def test_the_same_times_give_the_same_decisions() -> None:
    def decisions(seed: int) -> list[object]:
        rng = random.Random(seed)
        governor = Governor(SMALL)
        run(governor, 600, lambda on: faster(on) + rng.random())
        return list(governor.decisions)

    assert decisions(1) == decisions(1)
    assert decisions(1) != decisions(2)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_token_that_took_no_real_time_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="must be positive and finite"):
        Governor().record(seconds)


@pytest.mark.parametrize(
    ("field", "value"),
    [("window", 2), ("n_unjudged", -1), ("interval", 0), ("warm_up", -1), ("margin", 1.0)],
)
def test_settings_that_leave_nothing_to_compare_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        GovernorSettings(**{field: value})  # type: ignore[arg-type]
