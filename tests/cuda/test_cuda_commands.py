"""Command buffers of the CUDA backend: order, recordings, times, and failures of every kind."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from fake_cuda import FakeCuda
from norms import NORMED, PARAMS, STEP, X, committed, norm_on

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

LAUNCH_FAILED = 719
FAILURES = {
    2: CommandOutOfMemoryError,
    46: AccessRevokedError,
    214: DeviceRemovedError,
    400: InvalidResourceError,
    700: PageFaultError,
    702: CommandTimeoutError,
    716: PageFaultError,
    LAUNCH_FAILED: CommandBufferError,
}


def test_a_dispatch_runs_its_kernel(cuda: _core.Device) -> None:
    norm = norm_on(cuda)
    commands = committed(cuda, norm)
    commands.wait()
    assert commands.done
    assert commands.gpu_seconds > 0
    np.testing.assert_allclose(norm.out, NORMED, rtol=1e-6)


def test_copies_and_clears_keep_their_order(cuda: _core.Device) -> None:
    source, kept = cuda.upload(b"abcd"), cuda.buffer(4)
    commands = cuda.queue().command_buffer(STEP)
    commands.copy(source, kept)
    commands.zero(source)
    commands.commit()
    commands.wait()
    assert (cuda.download(source), cuda.download(kept)) == (bytes(4), b"abcd")


def test_a_recording_runs_again_and_again_and_never_changes(cuda: _core.Device) -> None:
    norm, recording = norm_on(cuda), cuda.record()
    norm.encode(recording)
    recording.zero(norm.buffers[0])
    for wanted in (NORMED, np.zeros_like(NORMED)):
        commands = cuda.queue().command_buffer(STEP)
        commands.replay(recording)
        commands.commit()
        commands.wait()
        np.testing.assert_allclose(norm.out, wanted, rtol=1e-6)
    with pytest.raises(DeviceError, match="after its first replay"):
        recording.zero(norm.buffers[0])


def test_kernels_see_what_the_host_wrote_before_each_commit(cuda: _core.Device) -> None:
    norm, recording = norm_on(cuda), cuda.record()
    x = cuda.buffer(X.nbytes, host=True)
    recording.dispatch(norm.pipeline, [x, *norm.buffers[1:]], PARAMS)
    for wanted in (NORMED, NORMED[::-1]):
        np.frombuffer(x, np.float32)[:] = X if wanted is NORMED else X[::-1]
        commands = cuda.queue().command_buffer(STEP)
        commands.replay(recording)
        commands.commit()
        commands.wait()
        np.testing.assert_allclose(norm.out, wanted, rtol=1e-6)


def test_kernels_see_what_work_before_them_wrote_for_the_host(cuda: _core.Device) -> None:
    norm, x = norm_on(cuda), cuda.buffer(X.nbytes, host=True)
    commands = cuda.queue().command_buffer(STEP)
    commands.copy(norm.buffers[0], x)
    commands.dispatch(norm.pipeline, [x, *norm.buffers[1:]], PARAMS)
    commands.dispatch(norm.pipeline, [norm.buffers[2], norm.buffers[1], x], PARAMS)
    commands.commit()
    commands.wait()
    np.testing.assert_allclose(norm.out, NORMED, rtol=1e-6)
    np.testing.assert_allclose(np.frombuffer(x, np.float32), NORMED, rtol=1e-5)


def test_committed_work_keeps_what_it_uses(fake: FakeCuda, cuda: _core.Device) -> None:
    out, queue = cuda.buffer(1 << 20, host=True), cuda.queue()
    for value in (3, 5):
        commands = queue.command_buffer(STEP)
        commands.copy(cuda.upload(np.full(1 << 20, value, np.uint8)), out)
        commands.commit()
        del commands
        gc.collect()
    last = queue.command_buffer(STEP)
    last.commit()
    last.wait()
    assert (np.frombuffer(out, np.uint8) == 5).all()
    assert fake.live("memory") == 0


def test_wrong_operands_are_refused_before_anything_runs(
    fake: FakeCuda, cuda: _core.Device
) -> None:
    norm, other = norm_on(cuda), _core.open_device("cpu", 1)
    commands = cuda.queue().command_buffer(STEP)
    with pytest.raises(DeviceError, match="needs 3 buffers, got 2"):
        commands.dispatch(norm.pipeline, norm.buffers[:2], PARAMS)
    with pytest.raises(DeviceError, match="needs params of 8 bytes, got 9"):
        commands.dispatch(norm.pipeline, norm.buffers, PARAMS + b"x")
    with pytest.raises(DeviceError, match="buffer of another device"):
        commands.zero(other.buffer(4))
    with pytest.raises(DeviceError, match="pipeline of another device"):
        commands.dispatch(other.pipeline("rms_norm", weight_dtype=0), norm.buffers, PARAMS)
    with pytest.raises(DeviceError, match="4 and 5 bytes"):
        commands.copy(cuda.buffer(4), cuda.buffer(5))
    assert fake.calls("cuLaunchKernel") == 0


def test_kernels_are_timed_in_their_order_since_the_commit(cuda: _core.Device) -> None:
    norm, commands = norm_on(cuda), cuda.queue().command_buffer(STEP)
    commands.keep_timings()
    norm.encode(commands)
    commands.copy(norm.buffers[0], norm.buffers[1])
    commands.zero(norm.buffers[0])
    commands.commit()
    commands.wait()
    timings = commands.timings
    assert [name for name, _, _ in timings] == ["rms_norm", "copy", "zero"]
    times = [time for _, begin, end in timings for time in (begin, end)]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] - times[0] <= commands.gpu_seconds


def test_work_behind_other_work_begins_after_it(cuda: _core.Device) -> None:
    large, other, queue = cuda.buffer(64 << 20), cuda.buffer(64 << 20), cuda.queue()
    first, second = queue.command_buffer(STEP), queue.command_buffer(STEP)
    first.keep_timings()
    second.keep_timings()
    for _ in range(4):
        first.copy(large, other)
    second.zero(other)
    first.commit()
    second.commit()
    second.wait()
    assert second.timings[0][1] > first.gpu_seconds / 2


@pytest.mark.parametrize(("code", "error"), FAILURES.items())
def test_a_launch_that_is_refused_fails_its_command_buffer(
    fake: FakeCuda, cuda: _core.Device, code: int, error: type[CommandBufferError]
) -> None:
    norm = norm_on(cuda)
    committed(cuda, norm).wait()
    fake.fail("cuLaunchKernel", code)
    commands = committed(cuda, norm, "layer 3")
    with pytest.raises(error, match="'layer 3'") as caught:
        commands.wait()
    assert type(caught.value) is error
    assert (caught.value.label, caught.value.domain, caught.value.code) == ("layer 3", "CUDA", code)
    committed(cuda, norm).wait()


@pytest.mark.parametrize(
    "entry_point", ["cuMemcpyDtoDAsync_v2", "cuMemsetD8Async", "cuEventRecord"]
)
def test_every_other_call_that_is_refused_does_so_too(
    fake: FakeCuda, cuda: _core.Device, entry_point: str
) -> None:
    source, destination = cuda.upload(b"abcd"), cuda.buffer(4)
    commands = cuda.queue().command_buffer(STEP, "bytes")
    commands.copy(source, destination)
    commands.zero(source)
    fake.fail(entry_point, LAUNCH_FAILED)
    commands.commit()
    with pytest.raises(CommandBufferError, match="'bytes'"):
        commands.wait()


@pytest.mark.parametrize(("code", "error"), FAILURES.items())
def test_a_kernel_that_fails_is_found_by_the_wait(
    fake: FakeCuda, cuda: _core.Device, code: int, error: type[CommandBufferError]
) -> None:
    norm = norm_on(cuda)
    committed(cuda, norm).wait()
    fake.fail_next_kernel(code)
    commands = committed(cuda, norm, "bad")
    with pytest.raises(error, match="'bad'"):
        commands.wait()
    with pytest.raises(error, match="'bad'"):
        commands.wait()


def test_a_failure_that_nobody_waited_for_is_thrown_by_the_next_wait(
    fake: FakeCuda, cuda: _core.Device
) -> None:
    norm = norm_on(cuda)
    committed(cuda, norm).wait()
    fake.fail("cuLaunchKernel", LAUNCH_FAILED)
    committed(cuda, norm, "forgotten")
    later = committed(cuda, norm, "later")
    with pytest.raises(CommandBufferError, match="'forgotten'"):
        later.wait()
    committed(cuda, norm).wait()


def test_a_device_that_hangs_is_an_error_and_then_lost(fake: FakeCuda) -> None:
    device = _core.open_device("cuda", cuda=fake.options(longest_wait=0.2))
    buffer, queue = device.buffer(4096), device.queue()
    fake.hang()
    commands = queue.command_buffer(STEP, "stuck")
    commands.zero(buffer)
    commands.commit()
    with pytest.raises(CommandTimeoutError, match="'stuck'"):
        commands.wait()
    after = queue.command_buffer(STEP, "after")
    with pytest.raises(CommandTimeoutError, match="'after'"):
        after.commit()
    with pytest.raises(DeviceError):
        device.buffer(4096)


def test_misuse_names_the_label(cuda: _core.Device) -> None:
    buffer = cuda.buffer(4)
    commands = cuda.queue().command_buffer(STEP, "layer 7")
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
