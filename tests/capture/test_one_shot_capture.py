"""The one-shot capture of a scope: sentences C1 to C11 of the contract."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from tracing_device import TracingDevice

from moeflux.capture.one_shot import PROCESS_LATCH, Latch, OneShotCapture
from moeflux.settings import Settings


@pytest.fixture
def latch() -> Latch:
    return Latch()


def take(device: TracingDevice, path: Path | str, latch: Latch) -> OneShotCapture | None:
    return OneShotCapture.take(device, str(path), latch)  # type: ignore[arg-type]


def taken(device: TracingDevice, path: Path, latch: Latch) -> OneShotCapture:
    capture = take(device, path, latch)
    assert capture is not None
    return capture


@pytest.mark.parametrize("environment", [{}, {"MLX_METAL_CAPTURE": ""}])
def test_c1_unset_or_empty_is_none_and_silent_and_leaves_the_latch(
    environment: dict[str, str],
    device: TracingDevice,
    path: Path,
    latch: Latch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = Settings.from_environment(environment).scope_capture_path
    assert take(device, asked, latch) is None
    assert caplog.text == ""
    assert device.log == []
    assert take(device, path, latch) is not None


def test_c2_variable_is_read_anew_by_each_settings() -> None:
    environment = {"MLX_METAL_CAPTURE": "a.gputrace"}
    assert Settings.from_environment(environment).scope_capture_path == "a.gputrace"
    environment["MLX_METAL_CAPTURE"] = "b.gputrace"
    assert Settings.from_environment(environment).scope_capture_path == "b.gputrace"


def test_c2_first_call_with_a_path_takes_the_latch_of_the_process(
    device: TracingDevice, path: Path
) -> None:
    PROCESS_LATCH.reset()
    try:
        first = OneShotCapture.take(device, str(path))  # type: ignore[arg-type]
        assert first is not None
        first.close()
        other = str(path.with_name("other.gputrace"))
        assert OneShotCapture.take(device, other) is None  # type: ignore[arg-type]
    finally:
        PROCESS_LATCH.reset()


def test_c3_latch_is_taken_also_by_a_failure_and_later_calls_are_silent(
    device: TracingDevice, path: Path, latch: Latch, caplog: pytest.LogCaptureFixture
) -> None:
    device.supports_capture = False
    assert take(device, path, latch) is None
    device.supports_capture = True
    assert take(device, path, latch) is None
    assert len(caplog.records) == 1


def test_c4_unsupported_is_none_and_one_line_with_path_and_cause(
    path: Path, latch: Latch, caplog: pytest.LogCaptureFixture
) -> None:
    device = TracingDevice(supports_capture=False)
    assert take(device, path, latch) is None
    (record,) = caplog.records
    assert str(path) in record.message
    assert "MTL_CAPTURE_ENABLED=1 (before macOS 14: METAL_CAPTURE_ENABLED=1)" in record.message
    assert device.log == []


def test_c5_start_that_fails_is_none_and_one_line_with_metals_words_and_the_hint(
    device: TracingDevice, path: Path, latch: Latch, caplog: pytest.LogCaptureFixture
) -> None:
    device.refusal = "the device has a headache (code 3)"
    assert take(device, path, latch) is None
    (record,) = caplog.records
    assert "the device has a headache (code 3)" in record.message
    assert "MTL_CAPTURE_ENABLED" in record.message


def test_c5_folder_that_is_not_there_is_none_too(
    device: TracingDevice, tmp_path: Path, latch: Latch, caplog: pytest.LogCaptureFixture
) -> None:
    assert take(device, tmp_path / "missing" / "step.gputrace", latch) is None
    assert "there is no folder" in caplog.text


def test_c6_captured_object_is_a_scope(device: TracingDevice, path: Path, latch: Latch) -> None:
    capture = taken(device, path, latch)
    assert device.log == ["start scope"]
    capture.close()


def test_c7_success_is_told_and_the_scope_is_not_open_yet(
    device: TracingDevice, path: Path, latch: Latch, caplog: pytest.LogCaptureFixture
) -> None:
    capture = taken(device, path, latch)
    assert not capture.started
    assert f"capturing a GPU trace to {path}" in caplog.text
    capture.close()


def test_c8_begin_and_end_work_once_and_the_path_is_told(
    device: TracingDevice, path: Path, latch: Latch, caplog: pytest.LogCaptureFixture
) -> None:
    capture = taken(device, path, latch)
    capture.begin()
    assert capture.started
    capture.begin()
    capture.end()
    assert not capture.started
    capture.end()
    assert device.log == ["start scope", "begin scope", "end scope", "stop"]
    assert [f"GPU trace: {path}" in record.message for record in caplog.records] == [False, True]


def test_c8_end_without_begin_does_nothing(device: TracingDevice, path: Path, latch: Latch) -> None:
    capture = taken(device, path, latch)
    capture.end()
    assert device.log == ["start scope"]
    assert device.is_capturing
    capture.close()


def test_c8_ended_capture_cannot_begin_again(
    device: TracingDevice, path: Path, latch: Latch
) -> None:
    capture = taken(device, path, latch)
    capture.begin()
    capture.end()
    capture.begin()
    assert not capture.started
    assert device.log.count("begin scope") == 1


def test_c9_an_exception_inside_still_writes_the_trace(
    device: TracingDevice, path: Path, latch: Latch
) -> None:
    with pytest.raises(ValueError, match="inside"), taken(device, path, latch):
        raise ValueError("inside")
    assert device.log[-2:] == ["end scope", "stop"]


def test_c9_dropped_capture_ends(device: TracingDevice, path: Path, latch: Latch) -> None:
    capture = taken(device, path, latch)
    capture.begin()
    del capture
    gc.collect()
    assert device.log[-2:] == ["end scope", "stop"]


def test_c9_dropped_capture_that_never_began_does_not_leave_the_process_capturing(
    device: TracingDevice, path: Path, latch: Latch
) -> None:
    capture = taken(device, path, latch)
    del capture
    gc.collect()
    assert device.log == ["start scope", "stop"]
    assert not device.is_capturing


def test_c10_an_older_trace_is_replaced(device: TracingDevice, path: Path, latch: Latch) -> None:
    path.mkdir()
    (path / "old").touch()
    taken(device, path, latch).close()
    assert [entry.name for entry in path.iterdir()] == ["trace"]


def test_c11_latch_can_be_reset(device: TracingDevice, path: Path, latch: Latch) -> None:
    taken(device, path, latch).close()
    latch.reset()
    taken(device, path, latch).close()
    assert device.log.count("start scope") == 2
