"""When kernels ran: one pass per dispatch, sampled at its boundaries."""

from __future__ import annotations

import pytest
from fake_metal import STEP, FakeMetal, Norm

from moeflux import _core
from moeflux.errors import DeviceError

pytestmark = pytest.mark.metal_bench


def timed(device: _core.Device, norm: Norm, n_dispatches: int = 1) -> _core.CommandBuffer:
    """Committed work whose timings are kept."""
    commands = device.queue().command_buffer(STEP, "timed")
    commands.keep_timings()
    for _ in range(n_dispatches):
        norm.dispatch(commands)
    commands.commit()
    return commands


def test_kernels_copies_and_replays_are_timed_in_order(metal: _core.Device) -> None:
    norm = Norm(metal)
    recording = metal.record()
    norm.dispatch(recording)
    commands = metal.queue().command_buffer(STEP)
    commands.keep_timings()
    commands.replay(recording)
    commands.copy(norm.buffers[0], norm.buffers[1])
    commands.zero(norm.buffers[1])
    norm.dispatch(commands)
    commands.commit()
    commands.wait()
    timings = commands.timings
    assert [name for name, _, _ in timings] == ["rms_norm", "copy", "zero", "rms_norm"]
    times = [time for _, begin, end in timings for time in (begin, end)]
    assert times == sorted(times)
    assert times[0] >= 0


def test_timings_add_up_to_the_time_of_the_command_buffer(
    metal: _core.Device, fake: FakeMetal
) -> None:
    """The GPU's clock has other ticks and another start than the host's."""
    fake["delay_us"] = 20_000
    fake["pass_delay_us"] = 10_000
    commands = timed(metal, Norm(metal), 10)
    commands.wait()
    times = [(begin, end) for _, begin, end in commands.timings]
    assert times[0][0] >= 0.02
    assert all(end - begin >= 0.0099 for begin, end in times)
    busy = sum(end - begin for begin, end in times)
    assert 0.8 * (commands.gpu_seconds - 0.02) < busy < 1.01 * commands.gpu_seconds


def test_no_dispatch_is_dropped_however_many_there_are(metal: _core.Device) -> None:
    """One sample buffer holds 2048 passes."""
    commands = timed(metal, Norm(metal), 2100)
    commands.wait()
    assert len(commands.timings) == 2100


def test_nothing_is_kept_unless_asked_for(metal: _core.Device) -> None:
    norm = Norm(metal)
    commands = metal.queue().command_buffer(STEP)
    norm.dispatch(commands)
    commands.commit()
    commands.wait()
    assert commands.timings == []


@pytest.mark.parametrize("fault", ["no_counter_sampling", "no_timestamp_counters"])
def test_device_that_cannot_sample_its_clock_notes_nothing(
    metal: _core.Device, fake: FakeMetal, fault: str
) -> None:
    fake[fault] = 1
    norm = Norm(metal)
    commands = timed(metal, norm)
    commands.wait()
    assert commands.timings == []
    norm.check()


def test_clock_that_stands_still_gives_no_timings(metal: _core.Device, fake: FakeMetal) -> None:
    fake["stopped_gpu_clock"] = 1
    commands = timed(metal, Norm(metal))
    commands.wait()
    assert commands.timings == []


def test_sample_buffer_that_metal_refuses_is_an_error(metal: _core.Device, fake: FakeMetal) -> None:
    fake["sample_buffer_errors"] = 1
    norm = Norm(metal)
    commands = metal.queue().command_buffer(STEP)
    commands.keep_timings()
    norm.dispatch(commands)
    with pytest.raises(DeviceError, match="timings of 1 passes: injected"):
        commands.commit()


def test_timings_without_commands_are_empty(metal: _core.Device) -> None:
    commands = metal.queue().command_buffer(STEP)
    commands.keep_timings()
    with pytest.raises(DeviceError, match="which is not done"):
        _ = commands.timings
    commands.commit()
    commands.wait()
    assert commands.timings == []
