"""Opening a device: what it needs, what it tells, and how it fails."""

from __future__ import annotations

import pytest
from fake_metal import FakeMetal

from moeflux import _core
from moeflux.errors import DeviceError, NoDeviceError

pytestmark = pytest.mark.metal_bench


def test_d1_without_a_metal_device_opening_fails_and_says_so(fake: FakeMetal) -> None:
    fake["no_device"] = 1
    assert _core.device_names() == ["cpu"]
    with pytest.raises(NoDeviceError, match="no Metal device"):
        _core.open_device("metal")


def test_metal_comes_before_cpu_where_there_is_a_device() -> None:
    assert _core.device_names() == ["metal", "cpu"]


def test_d2_a_device_has_one_command_queue(fake: FakeMetal) -> None:
    before = fake["queues"]
    device = _core.open_device("metal")
    queues = [device.queue(), device.queue()]
    assert fake["queues"] == before + 1
    assert len(queues) == 2


def test_device_without_a_command_queue_is_an_error(fake: FakeMetal) -> None:
    fake["no_queue"] = 1
    with pytest.raises(DeviceError, match="no command queue"):
        _core.open_device("metal")
    assert fake.live_objects() == 0


def test_description_tells_name_memory_and_working_set(metal: _core.Device) -> None:
    assert metal.name == "metal"
    assert metal.description == (
        "fake Metal on the host, unified memory, 8192 MiB recommended working set"
    )


def test_all_kernels_of_the_cpu_are_there(metal: _core.Device) -> None:
    assert metal.kernels() == sorted(metal.kernels())
    assert set(metal.kernels()) == set(_core.open_device("cpu", 1).kernels())


def test_memory_tells_what_is_allocated_resident_and_advised(metal: _core.Device) -> None:
    before = metal.memory()
    buffer = metal.buffer(1 << 16)
    after = metal.memory()
    assert after["allocated"] - before["allocated"] == buffer.nbytes
    assert after["resident"] - before["resident"] == buffer.nbytes
    assert after["recommended"] == 8 << 30
    assert after["largest_buffer"] == 1 << 40


def test_cpu_tells_no_memory_and_compiles_nothing_at_run_time() -> None:
    cpu = _core.open_device("cpu", 1)
    cpu.warm_all()
    assert (cpu.memory(), cpu.n_compiled) == ({}, 0)
