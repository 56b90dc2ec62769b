"""When kernels ran: kept on request, in order, inside the time of their command buffer."""

from __future__ import annotations

import pytest

from moeflux import _core
from moeflux.errors import DeviceError
from moeflux.ops.norm import rms_norm
from moeflux.ops.operands import Activations, RmsNorm, Vector

STEP = _core.Step(0, 1)


def norm(encoder: _core.Encoder, device: _core.Device) -> None:
    """One dispatch."""
    x, out = (Activations(device.buffer(4 * 64), 64) for _ in range(2))
    rms_norm(encoder, x, RmsNorm(Vector(device.buffer(4 * 64), 64), 1e-6), out)


def test_kernels_copies_and_replays_are_timed_in_order(cpu: _core.Device) -> None:
    recording = cpu.record()
    norm(recording, cpu)
    source, destination = cpu.buffer(64), cpu.buffer(64)
    commands = cpu.queue().command_buffer(STEP)
    commands.keep_timings()
    commands.replay(recording)
    commands.copy(source, destination)
    commands.zero(destination)
    norm(commands, cpu)
    commands.commit()
    commands.wait()
    timings = commands.timings
    assert [name for name, _, _ in timings] == ["rms_norm", "copy", "zero", "rms_norm"]
    times = [time for _, begin, end in timings for time in (begin, end)]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] - times[0] <= commands.gpu_seconds


def test_nothing_is_kept_unless_asked_for(cpu: _core.Device) -> None:
    commands = cpu.queue().command_buffer(STEP)
    norm(commands, cpu)
    commands.commit()
    commands.wait()
    assert commands.timings == []


def test_timings_are_refused_before_the_work_is_done(cpu: _core.Device) -> None:
    commands = cpu.queue().command_buffer(STEP)
    commands.keep_timings()
    with pytest.raises(DeviceError, match="which is not done"):
        _ = commands.timings


def test_timings_cannot_be_asked_for_after_the_commit(cpu: _core.Device) -> None:
    commands = cpu.queue().command_buffer(STEP, "late")
    commands.commit()
    with pytest.raises(DeviceError, match="keep_timings after commit of command buffer 'late'"):
        commands.keep_timings()
    commands.wait()
