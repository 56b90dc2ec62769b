"""What a look at a server gives: totals, rates of the last seconds, and the experts once each."""

from __future__ import annotations

import json
from base64 import b64decode

import pytest
from scheduled import requests, results

import moeflux
from moeflux.server.jobs.scheduler import Scheduler
from moeflux.server.page.live_view import (
    LONGEST_WINDOW,
    SHORTEST_LOOK,
    WINDOW,
    LiveView,
    Rates,
    RecentTotals,
    Sample,
)


class Clock:
    """Shows the time that it is set to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def view(served: moeflux.Model, scheduler: Scheduler, clock: Clock) -> LiveView:
    return LiveView(served, "tiny", scheduler.status, clock)


def sample(
    at: float, n_tokens: int = 0, busy: float = 0.0, nbytes: int = 0, hits: int = 0
) -> Sample:
    """One whose prefill and misses are half of its decode and hits."""
    return Sample(at, n_tokens, n_tokens // 2, busy, nbytes, hits, hits // 2)


# ---- rates ----


def test_nothing_is_known_from_one_sample() -> None:
    assert RecentTotals().add(sample(5.0, 10, 1.0, 1000, 8)) == Rates()


def test_rates_are_differences_over_work_and_over_time() -> None:
    recent = RecentTotals()
    recent.add(sample(0.0))
    rates = recent.add(sample(2.0, n_tokens=40, busy=0.5, nbytes=3000, hits=60))
    assert rates == Rates(80.0, 40.0, 1500.0, pytest.approx(2 / 3))


def test_what_is_older_than_the_window_does_not_count() -> None:
    recent = RecentTotals()
    recent.add(sample(0.0))
    recent.add(sample(1.0, n_tokens=1000, busy=1.0, nbytes=10**9, hits=100))
    rates = recent.add(sample(1.0 + WINDOW, n_tokens=1010, busy=2.0, nbytes=10**9 + 40, hits=300))
    assert rates == Rates(10.0, 5.0, 40 / WINDOW, pytest.approx(2 / 3))


def test_a_token_slower_than_the_window_has_its_speed() -> None:
    recent = RecentTotals()
    recent.add(sample(0.0))
    recent.add(sample(8.0, n_tokens=2, busy=8.0))
    for at in range(9, 16):
        rates = recent.add(sample(float(at), n_tokens=2, busy=8.0))
        assert rates.decode == 0.25


def test_after_work_reads_stop_at_once_and_speed_is_forgotten_in_the_end() -> None:
    recent = RecentTotals()
    recent.add(sample(0.0))
    recent.add(sample(1.0, n_tokens=50, busy=1.0, nbytes=1000))
    paused = recent.add(sample(1.0 + WINDOW, n_tokens=50, busy=1.0, nbytes=1000))
    assert (paused.decode, paused.bytes_read) == (50.0, 0.0)
    later = recent.add(sample(2.0 + LONGEST_WINDOW, n_tokens=50, busy=1.0, nbytes=1000))
    assert later.decode is None


# ---- looks ----


def test_a_look_at_an_idle_server_is_json_with_nothing_in_it_yet(view: LiveView) -> None:
    look = json.loads(json.dumps(view.look()))
    assert look["model"] == "tiny"
    assert look["jobs"] == {"n_active": 0, "n_queued": 0, "max_active": 3, "n_finished": 0}
    assert look["reads"] == {
        "bytes": 0,
        "bytes_per_second": None,
        "hit_rate": None,
        "recent_hit_rate": None,
    }
    assert look["decode"] == {"n_tokens": 0, "tokens_per_second": None}
    assert 0 < look["memory"]["resident"] <= look["memory"]["peak"]
    experts = look["experts"]
    assert b64decode(experts["cells"]) == bytes(sum(experts["layer_sizes"]))


def test_a_look_after_work_has_its_totals(
    served: moeflux.Model, scheduler: Scheduler, view: LiveView, clock: Clock
) -> None:
    view.look()
    jobs = [scheduler.submit(request) for request in requests(2, max_tokens=5)]
    results(jobs)
    scheduler.drain(0)
    clock.now += 1.0
    look = view.look()
    status, counters = scheduler.status(), served.runtime.experts.counters
    assert look["jobs"]["n_finished"] == 2
    assert look["decode"]["n_tokens"] == status.decode.n_tokens == 2 * 4
    assert look["prefill"]["n_tokens"] == 150 + 90
    busy = status.decode.seconds + status.prefill.seconds
    assert look["decode"]["tokens_per_second"] == pytest.approx(8 / busy)
    assert look["reads"]["bytes"] == counters.bytes_read > 0
    assert look["reads"]["bytes_per_second"] == pytest.approx(counters.bytes_read)
    n_awaited = counters.n_late + counters.n_missed
    hit_rate = counters.n_ready / (counters.n_ready + n_awaited)
    assert look["reads"]["hit_rate"] == look["reads"]["recent_hit_rate"] == pytest.approx(hit_rate)
    assert look["experts"]["n_resident"] > 0


def test_cells_that_the_onlooker_has_seen_are_not_sent_again(
    served: moeflux.Model, view: LiveView, clock: Clock
) -> None:
    first = view.look()["experts"]
    clock.now += 1.0
    again = view.look(first["version"])["experts"]
    assert (again["version"], again["cells"]) == (first["version"], None)
    served.session().prefill([3, 4, 5])
    clock.now += 1.0
    changed = view.look(first["version"])["experts"]
    assert changed["version"] != first["version"]
    assert b64decode(changed["cells"]) != b64decode(first["cells"])


def test_looks_in_quick_succession_are_one_look(
    served: moeflux.Model, view: LiveView, clock: Clock
) -> None:
    first = view.look()
    served.session().prefill([3, 4, 5])
    clock.now += SHORTEST_LOOK / 2
    assert view.look() == first
    clock.now += SHORTEST_LOOK
    assert view.look()["reads"]["bytes"] > 0
