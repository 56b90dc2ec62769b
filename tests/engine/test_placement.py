"""Where experts lie under caps: on devices with memory of their own, and on those without."""

from __future__ import annotations

from typing import Any

import pytest

import moeflux
from moeflux.engine import placement
from moeflux.engine.budget import DeviceMemory, MemoryCapError, MemoryNeeds
from moeflux.engine.placement import Placement, place_experts, vram_cap
from moeflux.errors import NoDeviceMemoryError

SLOT, N_EXPERTS = 10, 100
DEVICE = DeviceMemory(total_nbytes=2000, available_nbytes=1500, staging_nbytes=7)
HOST_FIXED = 1000 + 20 + 50 + 14
"""Process, stored prefixes, what the host sees of activations, staging of two workers."""
DEVICE_FIXED = 300 + 40 + 60


def needs(device: DeviceMemory | None = DEVICE) -> MemoryNeeds:
    return MemoryNeeds(
        process_nbytes=1000,
        dense_nbytes=300,
        state_nbytes=40,
        scratch_nbytes=110,
        slot_nbytes=SLOT,
        n_experts=N_EXPERTS,
        top_k=4,
        prefix_nbytes=20,
        host_scratch_nbytes=50,
        staging_nbytes=0 if device is None else 14,
        device=device,
    )


class FakeDevice:
    name = "abacus"
    description = "of beads"

    def __init__(self, **memory: int) -> None:
        self._memory = memory

    def memory(self) -> dict[str, int]:
        return self._memory


@pytest.fixture(autouse=True)
def _available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "available_memory", lambda: 500)


def counts(placed: Placement) -> tuple[int, int]:
    return placed.n_slots, placed.n_records


def test_each_cap_leaves_experts_of_its_own_tier() -> None:
    placed = place_experts(needs(), HOST_FIXED + 7 * SLOT + 9, DEVICE_FIXED + 5 * SLOT + 9)
    assert counts(placed) == (5, 7)
    assert placed.host_nbytes(needs()) == HOST_FIXED + 7 * SLOT
    assert placed.device_nbytes(needs()) == DEVICE_FIXED + 5 * SLOT


def test_without_caps_each_tier_takes_a_share_of_what_is_there() -> None:
    # 0.8 of 1500 on the device; 0.8 of 500 beside the process's 1000 on the host.
    assert counts(place_experts(needs(), None)) == ((1200 - DEVICE_FIXED) // SLOT, 31)


def test_a_cap_on_memory_leaves_the_device_alone() -> None:
    placed = place_experts(needs(), HOST_FIXED)
    assert counts(placed) == ((1200 - DEVICE_FIXED) // SLOT, 0)


def test_no_cap_exceeds_what_the_device_has() -> None:
    placed = place_experts(needs(), None, 10**9)
    assert placed.n_slots == N_EXPERTS
    less = DeviceMemory(total_nbytes=2000, available_nbytes=DEVICE_FIXED + 70, staging_nbytes=7)
    assert place_experts(needs(less), None, 10**9).n_slots == 7


def test_records_are_of_no_use_where_every_expert_has_a_slot() -> None:
    assert counts(place_experts(needs(), 10**9, DEVICE_FIXED + N_EXPERTS * SLOT)) == (100, 0)


def test_no_more_records_than_experts() -> None:
    assert counts(place_experts(needs(), 10**9, DEVICE_FIXED + 4 * SLOT)) == (4, N_EXPERTS)


@pytest.mark.parametrize(
    ("n_slots", "n_records", "share"), [(20, 0, 0.0), (20, 10, 0.0), (20, 60, 0.5), (20, 100, 1.0)]
)
def test_records_beyond_those_in_slots_are_what_helps(
    n_slots: int, n_records: int, share: float
) -> None:
    assert Placement(n_slots, n_records, None, None).record_share(N_EXPERTS) == share


def test_nothing_is_missed_where_every_expert_has_a_slot() -> None:
    assert Placement(N_EXPERTS, 0, None, None).record_share(N_EXPERTS) == 0.0


def test_a_shared_memory_has_slots_alone() -> None:
    shared = needs(None)
    placed = place_experts(shared, shared.fixed_nbytes + 9 * SLOT)
    assert counts(placed) == (9, 0)
    assert placed.host_nbytes(shared) == shared.fixed_nbytes + 9 * SLOT
    assert placed.device_nbytes(shared) == 0


def test_a_cap_on_the_device_below_its_floor_is_told_with_all_that_is_needed() -> None:
    with pytest.raises(MemoryCapError) as caught:
        place_experts(needs(), None, DEVICE_FIXED + 4 * SLOT - 1)
    assert str(caught.value) == (
        "vram of 439 B is below the 440 B that this model needs on the device: dense weights 300 B,"
        " state of one session 40 B, activations 60 B, expert slots, at least 4 of 100 40 B"
    )
    assert (caught.value.cap, caught.value.wanted_nbytes) == ("vram", 440)


def test_a_cap_on_memory_below_what_the_host_holds_is_told_with_all_of_it() -> None:
    with pytest.raises(MemoryCapError) as caught:
        place_experts(needs(), HOST_FIXED - 1)
    assert str(caught.value) == (
        "memory of 1.08 kB is below the 1.08 kB that this model needs beside the device: "
        "interpreter and libraries 1 kB, activations that the host sees 50 B, "
        "staging of reads 14 B, stored prefixes 20 B"
    )
    assert (caught.value.cap, caught.value.wanted_nbytes) == ("memory", HOST_FIXED)


def test_states_lie_under_the_cap_of_the_memory_they_are_in() -> None:
    placed = place_experts(needs(), HOST_FIXED, DEVICE_FIXED + 5 * SLOT + 9)
    assert placed.states_nbytes(needs()) == 40 + 9
    assert place_experts(needs(), HOST_FIXED).states_nbytes(needs()) is None
    shared = needs(None)
    assert place_experts(shared, shared.fixed_nbytes + 9 * SLOT + 3).states_nbytes(shared) == 43


def test_the_page_cache_keeps_what_records_leave_of_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grown = HOST_FIXED - 1000 + 60 * SLOT
    monkeypatch.setattr("moeflux.engine.budget.available_memory", lambda: grown + 80 * SLOT)
    assert needs().page_cache_share(n_slots=4, n_records=60) == (80 - 60) / (N_EXPERTS - 60)


@pytest.mark.parametrize(("asked", "cap"), [("", None), ("50%", 1000), ("1kB", 1000)])
def test_vram_is_of_the_memory_of_the_device(asked: str, cap: int | None) -> None:
    device: Any = FakeDevice(free=1500, total=2000)
    assert vram_cap(moeflux.Settings(vram=asked), device) == cap


@pytest.mark.parametrize("memory", [{}, {"recommended": 100}])
def test_vram_of_a_device_without_memory_of_its_own_is_refused(memory: dict[str, int]) -> None:
    device: Any = FakeDevice(**memory)
    with pytest.raises(NoDeviceMemoryError, match=r"vram of 8GB .* abacus device \(of beads\)"):
        vram_cap(moeflux.Settings(vram="8GB"), device)


def test_what_the_device_has_taken_already_is_available_to_it() -> None:
    device: Any = FakeDevice(free=1500, total=2000, allocated=100, staging=7)
    assert DeviceMemory.of(device) == DeviceMemory(2000, 1600, 7)


def test_vram_that_is_no_size_names_the_setting() -> None:
    with pytest.raises(ValueError, match="vram: a memory size looks like"):
        moeflux.load("demo", device="cpu", vram="lots")
