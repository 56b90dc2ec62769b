"""Failed command buffers: every status is read, and every code has its exception."""

from __future__ import annotations

import time

import pytest
from fake_metal import STEP, FakeMetal, Norm, committed

from moeflux import _core
from moeflux.errors import (
    AccessRevokedError,
    CommandBufferError,
    CommandOutOfMemoryError,
    CommandTimeoutError,
    DeviceError,
    DeviceRemovedError,
    InvalidResourceError,
    PageFaultError,
)

pytestmark = pytest.mark.metal_bench

CODES = {
    1: CommandBufferError,
    2: CommandTimeoutError,
    3: PageFaultError,
    4: AccessRevokedError,
    7: AccessRevokedError,
    8: CommandOutOfMemoryError,
    9: InvalidResourceError,
    10: CommandBufferError,
    11: DeviceRemovedError,
    12: CommandBufferError,
    14: CommandTimeoutError,
}


@pytest.mark.parametrize("code", CODES)
def test_d6_d7_failure_is_typed_and_carries_metals_words(
    metal: _core.Device, fake: FakeMetal, code: int
) -> None:
    fake["command_error"] = code
    commands = committed(metal, "layer 3 experts")
    with pytest.raises(CommandBufferError, match=r"'layer 3 experts': injected error") as caught:
        commands.wait()
    error = caught.value
    assert type(error) is CODES[code]
    assert isinstance(error, DeviceError)
    assert (error.code, error.label) == (code, "layer 3 experts")
    assert error.domain == "MTLCommandBufferErrorDomain"
    assert commands.done


def test_failures_are_builtin_errors_too() -> None:
    assert issubclass(CommandOutOfMemoryError, MemoryError)
    assert issubclass(CommandTimeoutError, TimeoutError)


def test_e4_failure_is_raised_by_each_wait(metal: _core.Device, fake: FakeMetal) -> None:
    fake["command_error"] = 3
    commands = committed(metal)
    for _ in range(2):
        with pytest.raises(PageFaultError):
            commands.wait()
    committed(metal).wait()


def test_failure_names_the_encoder_that_failed(metal: _core.Device, fake: FakeMetal) -> None:
    """Dispatches and blits take turns, so that there are three encoders."""
    norm = Norm(metal)
    commands = metal.queue().command_buffer(STEP, "mixer")
    norm.dispatch(commands)
    commands.zero(norm.buffers[2])
    norm.dispatch(commands)
    fake["command_error_pass"] = 1
    fake["command_error"] = 3
    commands.commit()
    with pytest.raises(PageFaultError, match="encoder 'mixer' faulted") as caught:
        commands.wait()
    states = [("mixer", state) for state in ("completed", "faulted", "pending")]
    assert list(caught.value.encoders) == states


def test_timed_work_names_the_kernel_that_failed(metal: _core.Device, fake: FakeMetal) -> None:
    norm = Norm(metal)
    commands = metal.queue().command_buffer(STEP, "mixer")
    commands.keep_timings()
    norm.dispatch(commands)
    fake["command_error"] = 3
    commands.commit()
    with pytest.raises(PageFaultError, match="encoder 'rms_norm' faulted"):
        commands.wait()


def test_work_that_nobody_awaits_fails_the_next_wait(metal: _core.Device, fake: FakeMetal) -> None:
    """The second half of a layer is committed and not awaited."""
    fake["command_error"] = 8
    committed(metal, "layer 1 experts")
    later = committed(metal, "layer 2 mixer")
    for _ in range(2):
        with pytest.raises(CommandOutOfMemoryError, match="'layer 1 experts'"):
            later.wait()
    committed(metal, "layer 3 mixer").wait()


def test_failure_that_its_owner_was_told_of_fails_no_other_wait(
    metal: _core.Device, fake: FakeMetal
) -> None:
    fake["command_error"] = 8
    first = committed(metal, "first")
    second = committed(metal, "second")
    with pytest.raises(CommandOutOfMemoryError):
        first.wait()
    second.wait()


def test_first_of_several_failures_is_told(metal: _core.Device, fake: FakeMetal) -> None:
    for label, code in (("first", 8), ("second", 3)):
        fake["command_error"] = code
        committed(metal, label)
        while fake["in_flight"]:
            time.sleep(0.001)
    with pytest.raises(CommandOutOfMemoryError, match="first"):
        committed(metal, "third").wait()


def test_work_after_a_failure_runs(metal: _core.Device, fake: FakeMetal) -> None:
    fake["command_error"] = 1
    with pytest.raises(CommandBufferError):
        committed(metal).wait()
    norm = Norm(metal)
    committed(metal, norm=norm).wait()
    norm.check()


def test_failed_work_has_a_time_and_no_timings(metal: _core.Device, fake: FakeMetal) -> None:
    norm = Norm(metal)
    commands = metal.queue().command_buffer(STEP)
    commands.keep_timings()
    norm.dispatch(commands)
    fake["command_error"] = 1
    commands.commit()
    with pytest.raises(CommandBufferError):
        commands.wait()
    assert commands.gpu_seconds >= 0
    assert commands.timings == []
