"""Command buffers, queues and recordings, driven from Python."""

import gc
import struct
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from moeflux import _core
from moeflux.errors import DeviceError

STEP = _core.Step(0, 1)
WIDTH = 64
RMS_NORM_PARAMS = struct.pack("<If", WIDTH, 1e-6)


def norm_operands(device: _core.Device) -> tuple[_core.Pipeline, list[_core.Buffer], np.ndarray]:
    """A pipeline, its buffers, and its output."""
    x = np.arange(1, WIDTH + 1, dtype=np.float32)
    out = device.buffer(4 * WIDTH, host=True)
    buffers = [device.upload(x), device.upload(np.ones(WIDTH, np.float32)), out]
    return device.pipeline("rms_norm", weight_dtype=0), buffers, np.frombuffer(out, np.float32)


def normed() -> np.ndarray:
    x = np.arange(1, WIDTH + 1, dtype=np.float64)
    return x / np.sqrt((x * x).mean() + 1e-6)


def test_dispatch_runs_the_kernel(cpu: _core.Device) -> None:
    pipeline, buffers, out = norm_operands(cpu)
    commands = cpu.queue().command_buffer(STEP, "norm")
    commands.dispatch(pipeline, buffers, RMS_NORM_PARAMS)
    assert not commands.done
    commands.commit()
    commands.wait()
    assert commands.done
    assert commands.gpu_seconds > 0
    np.testing.assert_allclose(out, normed(), rtol=1e-5)


def test_replay_runs_what_was_recorded(cpu: _core.Device) -> None:
    pipeline, buffers, out = norm_operands(cpu)
    recording = cpu.record()
    recording.dispatch(pipeline, buffers, RMS_NORM_PARAMS)
    recording.zero(buffers[0])
    assert len(recording) == 2
    del pipeline
    gc.collect()
    for wanted in (normed(), np.zeros(WIDTH)):
        commands = cpu.queue().command_buffer(STEP)
        commands.replay(recording)
        commands.commit()
        commands.wait()
        np.testing.assert_allclose(out, wanted, rtol=1e-5)


def test_recording_is_immutable_after_its_first_replay(cpu: _core.Device) -> None:
    pipeline, buffers, _ = norm_operands(cpu)
    recording = cpu.record()
    cpu.queue().command_buffer(STEP).replay(recording)
    appends: list[Callable[[], None]] = [
        lambda: recording.dispatch(pipeline, buffers, RMS_NORM_PARAMS),
        lambda: recording.copy(buffers[0], buffers[2]),
        lambda: recording.zero(buffers[0]),
    ]
    for append in appends:
        with pytest.raises(DeviceError, match="after its first replay"):
            append()


def test_wrong_number_of_buffers_and_size_of_params_are_named(cpu: _core.Device) -> None:
    pipeline, buffers, _ = norm_operands(cpu)
    for encoder in (cpu.record(), cpu.queue().command_buffer(STEP)):
        with pytest.raises(DeviceError, match="rms_norm needs 3 buffers, got 2"):
            encoder.dispatch(pipeline, buffers[:2], RMS_NORM_PARAMS)
        with pytest.raises(DeviceError, match="rms_norm needs params of 8 bytes, got 9"):
            encoder.dispatch(pipeline, buffers, RMS_NORM_PARAMS + b"x")


def test_copy_needs_equal_sizes(cpu: _core.Device) -> None:
    for encoder in (cpu.record(), cpu.queue().command_buffer(STEP)):
        with pytest.raises(DeviceError, match="4 and 5 bytes"):
            encoder.copy(cpu.buffer(4), cpu.buffer(5))


def test_copy_and_zero_keep_the_order(cpu: _core.Device) -> None:
    source, kept = cpu.upload(b"abcd"), cpu.buffer(4)
    commands = cpu.queue().command_buffer(STEP)
    commands.copy(source, kept)
    commands.zero(source)
    commands.commit()
    commands.wait()
    assert (cpu.download(source), cpu.download(kept)) == (bytes(4), b"abcd")


def test_misuse_names_the_label(cpu: _core.Device) -> None:
    buffer = cpu.buffer(4)
    commands = cpu.queue().command_buffer(STEP, label="layer 7")
    assert commands.label == "layer 7"
    with pytest.raises(DeviceError, match="'layer 7', which is not committed"):
        commands.wait()
    with pytest.raises(DeviceError, match="'layer 7', which is not done"):
        _ = commands.gpu_seconds
    commands.commit()
    with pytest.raises(DeviceError, match="'layer 7' is already committed"):
        commands.commit()
    with pytest.raises(DeviceError, match="zero after commit of command buffer 'layer 7'"):
        commands.zero(buffer)
    commands.wait()
    commands.wait()


def test_encoders_know_their_device(cpu: _core.Device) -> None:
    for encoder in (cpu.record(), cpu.queue().command_buffer(STEP)):
        assert encoder.device is cpu
        assert isinstance(encoder, _core.Encoder)


def test_device_lives_as_long_as_what_it_made() -> None:
    device = _core.open_device("cpu", n_threads=1)
    queue = device.queue()
    buffer = device.upload(b"abcd")
    del device
    gc.collect()
    commands = queue.command_buffer(STEP)
    del queue
    commands.zero(buffer)
    commands.commit()
    commands.wait()
    assert commands.device.download(buffer) == bytes(4)


def test_committed_work_needs_no_references(cpu: _core.Device) -> None:
    out = cpu.buffer(8 << 20, host=True)
    queue = cpu.queue()
    for _ in range(20):
        commands = queue.command_buffer(STEP)
        source = cpu.upload(np.full(8 << 20, 5, np.uint8))
        commands.copy(source, out)
        commands.commit()
        del source, commands
    last = queue.command_buffer(STEP)
    last.commit()
    last.wait()
    assert (np.frombuffer(out, np.uint8) == 5).all()


def test_steps_hold_what_they_were_given() -> None:
    step = _core.Step(position=5, n_tokens=3)
    assert (step.position, step.n_tokens, step.prefill) == (5, 3, False)
    assert _core.Step(5, 3, prefill=True).prefill
    with pytest.raises(ValueError, match="position"):
        _core.Step(-1, 1)
    with pytest.raises(ValueError, match="n_tokens"):
        _core.Step(0, 2**32)


def test_wait_lets_other_threads_run(cpu: _core.Device) -> None:
    """With the interpreter lock held during wait, the counter could not advance."""
    large, other = cpu.buffer(64 << 20), cpu.buffer(64 << 20)
    commands = cpu.queue().command_buffer(STEP)
    for _ in range(20):
        commands.copy(large, other)
    count = 0
    stop = threading.Event()

    def advance() -> None:
        nonlocal count
        while not stop.is_set():
            count += 1
            time.sleep(0.0005)

    thread = threading.Thread(target=advance)
    thread.start()
    try:
        commands.commit()
        before = count
        commands.wait()
        during = count - before
    finally:
        stop.set()
        thread.join()
    assert commands.gpu_seconds > 0.01
    assert during > 2


def test_classes_are_final() -> None:
    for base in (_core.Device, _core.Buffer, _core.Queue, _core.CommandBuffer, _core.Recording):
        with pytest.raises(TypeError, match="not an acceptable base type"):
            type("Derived", (base,), {})


def test_nothing_is_made_but_by_its_device() -> None:
    for cls in (
        _core.Device,
        _core.Buffer,
        _core.Queue,
        _core.CommandBuffer,
        _core.ReadPool,
        _core.ReadTicket,
    ):
        with pytest.raises(TypeError, match="No constructor defined"):
            cls()
