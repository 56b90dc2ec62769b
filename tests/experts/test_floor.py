"""The floor: how many slots a model cannot do without."""

from __future__ import annotations

import pytest

from moeflux.errors import MoefluxError
from moeflux.experts.floor import SlotFloorError, check_floor, required_slots


def test_the_floor_is_top_k_for_every_lease_held_at_once() -> None:
    assert required_slots(top_k=8) == 8
    assert required_slots(top_k=8, n_leases=2) == 16


def test_memory_below_the_floor_is_refused_with_the_numbers() -> None:
    with pytest.raises(
        SlotFloorError,
        match=r"at least 8000 bytes \(8 slots of 1000 bytes\), got 7999 bytes \(7 slots\)",
    ) as caught:
        check_floor(7999, 1000, top_k=8)
    error = caught.value
    assert (error.wanted_slots, error.got_slots) == (8, 7)
    assert (error.wanted_nbytes, error.got_nbytes) == (8000, 7999)
    assert isinstance(error, MoefluxError)
    assert isinstance(error, ValueError)


def test_memory_at_the_floor_is_accepted() -> None:
    assert check_floor(8999, 1000, top_k=8) == 8


@pytest.mark.parametrize(("top_k", "n_leases"), [(0, 1), (8, 0)])
def test_a_model_that_routes_to_nothing_is_refused(top_k: int, n_leases: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        required_slots(top_k, n_leases)


def test_slots_without_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="slot_nbytes must be at least 1, got 0"):
        check_floor(1000, 0, top_k=1)
