"""`with moeflux.capture(path)` and start_capture, stop_capture, is_capturing."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from tracing_device import TracingDevice

import moeflux
from moeflux._core import open_device
from moeflux.capture import Capture, Target
from moeflux.capture.process import CAPTURES
from moeflux.errors import AlreadyCapturingError, CaptureError, CaptureUnsupportedError


@pytest.fixture
def used(device: TracingDevice) -> Iterator[TracingDevice]:
    """The device of the one loaded model."""
    gc.collect()
    CAPTURES.add_device(device)  # type: ignore[arg-type]
    yield device
    CAPTURES.remove_device(device)  # type: ignore[arg-type]


def test_captures_inside_and_not_outside(used: TracingDevice, path: Path) -> None:
    with moeflux.capture(path):
        assert moeflux.is_capturing()
        assert used.log == ["start queue"]
    assert not moeflux.is_capturing()
    assert used.log == ["start queue", "stop"]
    assert path.is_dir()


@pytest.mark.parametrize("target", ["queue", "device"])
def test_target_is_passed_on(used: TracingDevice, path: Path, target: Target) -> None:
    with moeflux.capture(path, target=target):
        pass
    assert used.log == [f"start {target}", "stop"]


def test_scope_opens_after_the_start_and_closes_before_the_stop(
    used: TracingDevice, path: Path
) -> None:
    with moeflux.capture(path, target="scope"):
        pass
    assert used.log == ["start scope", "begin scope", "end scope", "stop"]


def test_unknown_target_is_refused(used: TracingDevice, path: Path) -> None:
    with pytest.raises(ValueError, match="target must be one of queue, device, scope, got 'cpu'"):
        moeflux.capture(path, target="cpu")  # type: ignore[arg-type]
    assert used.log == []


def test_exception_inside_closes(used: TracingDevice, path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), moeflux.capture(path):
        raise KeyboardInterrupt
    assert used.log == ["start queue", "stop"]


def test_start_and_stop_in_two_calls(used: TracingDevice, path: Path) -> None:
    moeflux.start_capture(path)
    assert moeflux.is_capturing()
    moeflux.stop_capture()
    moeflux.stop_capture()
    assert not moeflux.is_capturing()
    assert used.log == ["start queue", "stop"]


@pytest.mark.usefixtures("used")
def test_stop_without_a_start_leaves_the_capture_of_somebody_else(path: Path) -> None:
    with moeflux.capture(path):
        moeflux.stop_capture()
        assert moeflux.is_capturing()


def test_second_capture_is_refused_and_the_first_goes_on(used: TracingDevice, path: Path) -> None:
    moeflux.start_capture(path)
    with pytest.raises(AlreadyCapturingError):
        moeflux.start_capture(path.with_name("other.gputrace"))
    assert moeflux.is_capturing()
    moeflux.stop_capture()
    assert used.log == ["start queue", "stop"]


def test_capture_that_is_dropped_ends(device: TracingDevice, path: Path) -> None:
    capture = Capture(device, path)  # type: ignore[arg-type]
    capture.start()
    assert capture.under_way
    del capture
    gc.collect()
    assert not device.is_capturing


def test_existing_path_is_refused_unless_it_may_be_replaced(
    used: TracingDevice, path: Path
) -> None:
    path.mkdir()
    with pytest.raises(CaptureError, match="it exists, and overwrite was not asked for"):
        moeflux.start_capture(path)
    with moeflux.capture(path, overwrite=True):
        pass
    assert used.log == ["start queue", "stop"]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_only_traces_are_replaced(used: TracingDevice, tmp_path: Path) -> None:
    letters = tmp_path / "letters"
    letters.mkdir()
    (letters / "to.txt").touch()
    with pytest.raises(CaptureError, match=r"only names in \.gputrace are replaced"):
        moeflux.start_capture(letters, overwrite=True)
    assert (letters / "to.txt").exists()
    assert used.log == []


def test_link_to_a_trace_is_replaced_and_what_it_points_to_is_kept(
    used: TracingDevice, path: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    path.symlink_to(kept)
    with moeflux.capture(path, overwrite=True):
        pass
    assert used.log == ["start queue", "stop"]
    assert kept.is_dir()
    assert not path.is_symlink()


def test_start_that_fails_keeps_the_trace_that_it_was_to_replace(
    used: TracingDevice, path: Path
) -> None:
    path.mkdir()
    (path / "old").touch()
    used.refusal = "no (code 3)"
    with pytest.raises(CaptureError, match="no"):
        moeflux.start_capture(path, overwrite=True)
    assert (path / "old").exists()


@pytest.mark.usefixtures("used")
def test_refused_second_capture_keeps_the_trace_that_it_was_to_replace(path: Path) -> None:
    with moeflux.capture(path), pytest.raises(AlreadyCapturingError):
        moeflux.start_capture(path, overwrite=True)
    assert path.is_dir()


def test_missing_folder_is_named(used: TracingDevice, tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=f"there is no folder {tmp_path / 'missing'}"):
        moeflux.start_capture(tmp_path / "missing" / "step.gputrace")
    assert used.log == []


def test_relative_path_is_that_of_the_start(
    used: TracingDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with moeflux.capture("step.gputrace") as capture:
        assert capture.path == tmp_path / "step.gputrace"
    assert repr(capture) == f"<Capture of metal to {capture.path}, not under way>"
    assert used.log == ["start queue", "stop"]


def test_without_a_model_the_device_must_be_given(device: TracingDevice, path: Path) -> None:
    gc.collect()
    with pytest.raises(CaptureError, match="load one before the capture, or give the device"):
        moeflux.start_capture(path)
    assert not moeflux.is_capturing()
    moeflux.start_capture(path, device)  # type: ignore[arg-type]
    assert moeflux.is_capturing()
    moeflux.stop_capture()
    assert device.log == ["start queue", "stop"]


def test_device_of_a_loaded_model_is_the_default_until_it_is_closed(
    hybrid: moeflux.Model, path: Path
) -> None:
    gc.collect()
    assert CAPTURES.only_device() is hybrid.device
    hybrid.close()
    with pytest.raises(CaptureError, match="0 models are loaded"):
        moeflux.capture(path)


def test_cpu_says_that_it_captures_no_gpu_trace(hybrid: moeflux.Model, path: Path) -> None:
    assert not hybrid.device.supports_capture
    with (
        pytest.raises(CaptureUnsupportedError, match="cpu device cannot capture a GPU trace"),
        moeflux.capture(path),
    ):
        pass
    assert not path.exists()
    assert not moeflux.is_capturing()
    with pytest.raises(CaptureUnsupportedError):
        moeflux.start_capture(path, open_device("cpu", 1))
