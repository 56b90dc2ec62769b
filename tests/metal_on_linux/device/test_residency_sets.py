"""What is kept resident for the GPU, and what that costs a submission."""

from __future__ import annotations

import gc

import pytest
from fake_metal import FakeMetal, committed

from moeflux import _core

pytestmark = pytest.mark.metal_bench


def test_r2_changes_are_staged_and_committed_once_per_submission(
    metal: _core.Device, fake: FakeMetal
) -> None:
    committed(metal).wait()
    commits = fake["residency_commits"]
    buffers = [metal.buffer(1000) for _ in range(5)]
    assert fake["residency_commits"] == commits
    commands = metal.queue().command_buffer(_core.Step(0, 1))
    commands.commit()
    commands.wait()
    assert fake["residency_commits"] == commits + 1
    assert fake["resident_nbytes"] >= sum(buffer.nbytes for buffer in buffers)


def test_r2_submission_without_changes_commits_nothing(
    metal: _core.Device, fake: FakeMetal
) -> None:
    first = metal.queue().command_buffer(_core.Step(0, 1))
    first.commit()
    first.wait()
    commits = fake["residency_commits"]
    second = metal.queue().command_buffer(_core.Step(1, 1))
    second.commit()
    second.wait()
    assert fake["residency_commits"] == commits


def test_r3_set_has_a_capacity_hint_is_attached_and_requested(fake: FakeMetal) -> None:
    sets = fake["residency_sets_attached"]
    device = _core.open_device("metal")
    assert fake["residency_sets_attached"] == sets + 1
    assert fake["residency_set_capacity"] == 256
    requests = fake["residency_requests"]
    committed(device).wait()
    assert fake["residency_requests"] == requests + 1


@pytest.mark.parametrize("fault", ["no_residency_sets", "residency_set_errors"])
def test_r1_without_residency_sets_work_runs_all_the_same(fake: FakeMetal, fault: str) -> None:
    fake[fault] = 1
    commits = fake["residency_commits"]
    device = _core.open_device("metal")
    committed(device).wait()
    assert device.memory()["resident"] == 0
    assert fake["residency_commits"] == commits


def test_allocations_beyond_the_recommended_working_set_stay_out(fake: FakeMetal) -> None:
    fake["working_set"] = 10_000
    device = _core.open_device("metal")
    inside, beyond = device.buffer(8000), device.buffer(8000)
    assert device.memory()["resident"] == 8000
    assert device.memory()["recommended"] == 10_000
    del inside
    gc.collect()
    assert device.memory()["resident"] == 0
    del beyond
    gc.collect()
    fits = device.buffer(10_000)
    assert device.memory()["resident"] == fits.nbytes
