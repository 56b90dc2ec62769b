"""The window of bytes that guesses may fill."""

from __future__ import annotations

import pytest

from moeflux.experts.idle import IdleWindow


def test_the_window_is_idle_time_times_rate() -> None:
    window = IdleWindow()
    window.record_idle(0.25)
    window.record_reads(1000, 0.5)
    assert window.nbytes == 500


def test_there_is_no_window_until_time_and_rate_are_known() -> None:
    window = IdleWindow()
    assert window.nbytes == 0
    window.record_idle(1.0)
    assert window.nbytes == 0


def test_newer_values_weigh_more() -> None:
    window = IdleWindow(weight=0.5)
    window.record_reads(1000, 1.0)
    window.record_idle(1.0)
    window.record_idle(3.0)
    assert window.nbytes == 2000


def test_reads_that_took_no_time_say_nothing_about_the_rate() -> None:
    window = IdleWindow()
    window.record_idle(1.0)
    window.record_reads(1000, 0.0)
    assert window.nbytes == 0


def test_negative_time_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        IdleWindow().record_idle(-0.1)


@pytest.mark.parametrize("weight", [0.0, 1.1])
def test_a_weight_that_is_no_share_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight must be above 0"):
        IdleWindow(weight)
