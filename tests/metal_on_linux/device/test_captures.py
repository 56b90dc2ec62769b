"""GPU traces: the primitives that moeflux.capture decides with."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest
from fake_metal import STEP, FakeMetal, committed

from moeflux import _core
from moeflux._core import CaptureTarget
from moeflux.errors import AlreadyCapturingError, CaptureError, CaptureUnsupportedError

pytestmark = pytest.mark.metal_bench


def traced(path: Path) -> list[str]:
    """Labels of the command buffers in a trace."""
    lines = (path / "trace.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return [entry["command_buffer"] for entry in entries if "command_buffer" in entry]


@pytest.fixture
def path(tmp_path: Path, fake: FakeMetal) -> Path:
    fake["capture"] = 1
    return tmp_path / "work.gputrace"


@pytest.mark.parametrize("target", [CaptureTarget.DEVICE, CaptureTarget.QUEUE])
def test_trace_holds_what_is_committed_between_start_and_stop(
    metal: _core.Device, path: Path, target: CaptureTarget
) -> None:
    committed(metal, "before")
    assert metal.supports_capture
    assert not metal.is_capturing
    metal.start_capture(path, target)
    assert metal.is_capturing
    committed(metal, "inside")
    metal.stop_capture()
    assert not metal.is_capturing
    committed(metal, "after").wait()
    assert traced(path) == ["inside, position 0, n_tokens 1"]


def test_scope_holds_what_is_committed_between_its_begin_and_end(
    metal: _core.Device, path: Path
) -> None:
    metal.start_capture(path, CaptureTarget.SCOPE)
    committed(metal, "before")
    metal.begin_scope()
    committed(metal, "inside")
    metal.end_scope()
    committed(metal, "after")
    metal.stop_capture()
    assert traced(path) == ["inside, position 0, n_tokens 1"]


def test_command_buffer_made_before_the_start_and_committed_after_it_is_traced(
    metal: _core.Device, path: Path
) -> None:
    """Metal traces those that it made after the start; ours are made with the commit."""
    commands = metal.queue().command_buffer(STEP, "early")
    commands.zero(metal.buffer(4))
    metal.start_capture(path)
    commands.commit()
    metal.stop_capture()
    assert traced(path) == ["early, position 0, n_tokens 1"]


def test_stop_waits_for_committed_work(metal: _core.Device, fake: FakeMetal, path: Path) -> None:
    fake["delay_us"] = 50_000
    metal.start_capture(path)
    commands = committed(metal)
    metal.stop_capture()
    assert commands.done


def test_stop_after_a_failure_ends_the_capture_and_the_failure_is_not_lost(
    metal: _core.Device, fake: FakeMetal, path: Path
) -> None:
    metal.start_capture(path)
    fake["command_error"] = 3
    committed(metal, "faulty")
    metal.stop_capture()
    assert not metal.is_capturing
    with pytest.raises(Exception, match="faulty"):
        committed(metal).wait()


def test_stop_without_a_capture_does_nothing(metal: _core.Device) -> None:
    metal.stop_capture()
    assert not metal.is_capturing


def test_process_that_may_not_capture_is_told_what_to_set(
    metal: _core.Device, fake: FakeMetal, path: Path
) -> None:
    fake["capture"] = 0
    assert not metal.supports_capture
    with pytest.raises(CaptureUnsupportedError, match="MTL_CAPTURE_ENABLED=1") as caught:
        metal.start_capture(path)
    assert str(path) in str(caught.value)
    assert "METAL_CAPTURE_ENABLED" in str(caught.value)


def test_second_capture_is_refused_and_the_first_goes_on(
    metal: _core.Device, path: Path, tmp_path: Path
) -> None:
    metal.start_capture(path)
    with pytest.raises(AlreadyCapturingError):
        metal.start_capture(tmp_path / "second.gputrace")
    committed(metal)
    metal.stop_capture()
    assert len(traced(path)) == 1


def test_path_that_exists_is_refused_by_metal_in_its_words(metal: _core.Device, path: Path) -> None:
    path.mkdir()
    with pytest.raises(CaptureError, match=r"output URL exists .*\(code 3\)") as caught:
        metal.start_capture(path)
    assert type(caught.value) is CaptureError
    assert not metal.is_capturing


def test_capture_ends_with_its_device(path: Path) -> None:
    device = _core.open_device("metal")
    device.start_capture(path)
    committed(device)
    del device
    gc.collect()
    assert not _core.open_device("metal").is_capturing
    assert len(traced(path)) == 1


def test_cpu_cannot_capture(tmp_path: Path) -> None:
    cpu = _core.open_device("cpu", 1)
    assert not cpu.supports_capture
    assert not cpu.is_capturing
    cpu.begin_scope()
    cpu.end_scope()
    cpu.stop_capture()
    with pytest.raises(CaptureUnsupportedError, match="cpu device cannot capture"):
        cpu.start_capture(tmp_path / "no.gputrace")
