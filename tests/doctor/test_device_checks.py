"""What the doctor says of a device: limits, memory speed and GPU traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moeflux._core import Device, device_names, open_device
from moeflux.doctor import Status, device_checks
from moeflux.doctor.device_checks import (
    check_capture,
    check_device,
    check_memory_speed,
    copy_bandwidth,
)
from moeflux.errors import CaptureError


class CapturingDevice:
    """A device that writes GPU traces, or fails to."""

    supports_capture = True
    is_capturing = False

    def __init__(self, *, writes: bool = True, failure: Exception | None = None) -> None:
        self._device = open_device("cpu", 1)
        self._writes = writes
        self._failure = failure

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def start_capture(self, path: Path, _target: object) -> None:
        if self._failure is not None:
            raise self._failure
        if self._writes:
            path.mkdir()

    def stop_capture(self) -> None:
        pass


@pytest.fixture(params=device_names())
def device(request: pytest.FixtureRequest) -> Device:
    return open_device(request.param, 1)


def test_kernels_and_limits_are_told(device: Device) -> None:
    about, limits = check_device(device)
    assert device.description in about.said
    assert about.values["kernels"] == device.kernels()
    # Other programs use the same device, so that what is free changes.
    assert dict(limits.values) | {"free": 0} == device.memory() | {"free": 0}
    assert (limits.status is Status.OK) is bool(device.memory())


def test_speeds_of_memory_are_told(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_checks, "MEASURED_NBYTES", 2**20)
    for finding in check_memory_speed(device, 1):
        assert finding.status is Status.OK
        assert finding.values["bytes_per_second"] > 0


def test_a_copy_reads_and_writes(device: Device) -> None:
    assert copy_bandwidth(device, 2**20) > 0


def test_a_device_without_traces_is_no_problem() -> None:
    (finding,) = check_capture(open_device("cpu", 1))
    assert finding.status is Status.ABSENT
    assert "MTL_CAPTURE_ENABLED=1" in finding.advice


def test_a_trace_that_was_written_is_ok() -> None:
    (finding,) = check_capture(CapturingDevice())  # type: ignore[arg-type]
    assert finding.status is Status.OK


def test_a_capture_without_a_trace_is_a_problem() -> None:
    (finding,) = check_capture(CapturingDevice(writes=False))  # type: ignore[arg-type]
    assert finding.status is Status.PROBLEM


def test_a_capture_that_fails_is_a_problem_with_its_message() -> None:
    device = CapturingDevice(failure=CaptureError("another capture is under way"))
    (finding,) = check_capture(device)  # type: ignore[arg-type]
    assert finding.status is Status.PROBLEM
    assert "another capture is under way" in finding.said
