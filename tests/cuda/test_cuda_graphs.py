"""Recordings as graphs: when there is one, that it computes the same, and failures of its calls."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import FakeCuda, build
from norms import NORMED, PARAMS, STEP, WIDTH, Norm, X, norm_on

from moeflux import _core
from moeflux.errors import CommandBufferError, DeviceError, PageFaultError

LAUNCH_FAILED = 719
ILLEGAL_ADDRESS = 700
MAKING = ("cuGraphCreate", "cuGraphAddKernelNode_v2", "cuGraphInstantiateWithFlags")


def chain_on(device: _core.Device) -> tuple[_core.Recording, Norm]:
    """Norms of which each takes what the one before it wrote, or writes what that one took."""
    norm, recording = norm_on(device), device.record()
    x, weight, out = norm.buffers
    middle = device.buffer(4 * WIDTH)
    for operands in ([x, weight, middle], [middle, weight, out], [x, weight, middle]):
        recording.dispatch(norm.pipeline, operands, PARAMS)
    return recording, norm


def replay(
    device: _core.Device, recording: _core.Recording, step: _core.Step = STEP
) -> _core.CommandBuffer:
    commands = device.queue().command_buffer(step, "layer 3")
    commands.replay(recording)
    commands.commit()
    return commands


def assert_normed(norm: Norm) -> None:
    """Twice is as once, for a norm of a norm."""
    np.testing.assert_allclose(norm.out, NORMED, rtol=1e-5)
    norm.out[:] = 0


def test_a_recording_is_a_graph_from_its_second_replay_on(
    fake: FakeCuda, cuda: _core.Device
) -> None:
    recording, norm = chain_on(cuda)
    for n_launches, n_graph_launches in ((3, 0), (3, 1), (3, 2)):
        replay(cuda, recording).wait()
        assert_normed(norm)
        assert fake.calls("cuLaunchKernel") == n_launches
        assert fake.calls("cuGraphLaunch") == n_graph_launches


def test_kernels_of_a_graph_wait_for_those_whose_buffers_they_share(cuda: _core.Device) -> None:
    # Of the kernels that may begin, the fake runs the last one first.
    norm, recording = norm_on(cuda), cuda.record()
    x, weight, out = norm.buffers
    middle = cuda.buffer(4 * WIDTH)
    twice = cuda.upload(np.full(WIDTH, 2, np.float32))
    for operands in ([x, twice, middle], [middle, twice, out], [out, weight, x], [x, twice, out]):
        recording.dispatch(norm.pipeline, operands, PARAMS)
    for _ in range(3):
        replay(cuda, recording).wait()
        np.testing.assert_allclose(norm.out, 2 * NORMED, rtol=1e-5)


def test_a_graph_sees_what_the_host_wrote_before_each_commit(
    fake: FakeCuda, cuda: _core.Device
) -> None:
    norm, recording = norm_on(cuda), cuda.record()
    x, other = cuda.buffer(X.nbytes, host=True), cuda.buffer(X.nbytes)
    recording.dispatch(norm.pipeline, [x, *norm.buffers[1:]], PARAMS)
    recording.dispatch(norm.pipeline, [x, norm.buffers[1], other], PARAMS)
    for wanted in (NORMED, NORMED[::-1], NORMED, NORMED[::-1]):
        np.frombuffer(x, np.float32)[:] = X if wanted is NORMED else X[::-1]
        replay(cuda, recording).wait()
        np.testing.assert_allclose(norm.out, wanted, rtol=1e-6)
    assert fake.calls("cuGraphLaunch") == 3


def test_other_numbers_of_tokens_change_the_graph_that_is_launched(
    fake: FakeCuda, cuda: _core.Device
) -> None:
    pipeline, weight = norm_on(cuda).pipeline, cuda.upload(np.ones(WIDTH, np.float32))
    x = cuda.upload(np.tile(X, (4, 1)))
    out, other = cuda.buffer(4 * X.nbytes, host=True), cuda.buffer(4 * X.nbytes)
    rows, recording = np.frombuffer(out, np.float32).reshape(4, WIDTH), cuda.record()
    recording.dispatch(pipeline, [x, weight, out], PARAMS)
    recording.dispatch(pipeline, [x, weight, other], PARAMS)
    for n_tokens in (2, 2, 4, 1):
        rows[:] = 0
        replay(cuda, recording, _core.Step(0, n_tokens)).wait()
        np.testing.assert_allclose(rows[:n_tokens], np.tile(NORMED, (n_tokens, 1)), rtol=1e-6)
        assert not rows[n_tokens:].any()
    assert fake.calls("cuGraphLaunch") == 3


def test_what_cannot_be_a_graph_is_launched_one_by_one(fake: FakeCuda, cuda: _core.Device) -> None:
    norm = norm_on(cuda)
    alone, with_copy = cuda.record(), cuda.record()
    norm.encode(alone)
    norm.encode(with_copy)
    with_copy.copy(norm.buffers[0], cuda.buffer(X.nbytes))
    for recording in (alone, with_copy):
        for _ in range(3):
            replay(cuda, recording).wait()
            assert_normed(norm)
    assert fake.calls("cuGraphCreate") == 0


def test_kernels_that_are_timed_are_launched_one_by_one(fake: FakeCuda, cuda: _core.Device) -> None:
    recording, _ = chain_on(cuda)
    for _ in range(2):
        replay(cuda, recording).wait()
    commands = cuda.queue().command_buffer(STEP)
    commands.keep_timings()
    commands.replay(recording)
    commands.commit()
    commands.wait()
    assert [name for name, _, _ in commands.timings] == ["rms_norm"] * 3
    assert fake.calls("cuGraphLaunch") == 1


def test_a_driver_without_graphs_launches_one_by_one(tmp_path: Path) -> None:
    old = build(tmp_path, graphs=False)
    device = _core.open_device("cuda", cuda=old.options())
    recording, norm = chain_on(device)
    for _ in range(3):
        replay(device, recording).wait()
        assert_normed(norm)
    assert old.calls("cuLaunchKernel") == 9


@pytest.mark.parametrize("entry_point", MAKING)
def test_a_graph_that_the_driver_refuses_is_done_without(
    fake: FakeCuda, cuda: _core.Device, entry_point: str
) -> None:
    recording, norm = chain_on(cuda)
    fake.fail(entry_point, 2)
    for _ in range(3):
        replay(cuda, recording).wait()
        assert_normed(norm)
    assert fake.calls("cuLaunchKernel") == 9
    assert fake.live("graph") == 0


@pytest.mark.parametrize(
    ("code", "error"), [(LAUNCH_FAILED, CommandBufferError), (ILLEGAL_ADDRESS, PageFaultError)]
)
def test_a_launch_of_a_graph_that_is_refused_fails_its_command_buffer(
    fake: FakeCuda, cuda: _core.Device, code: int, error: type[CommandBufferError]
) -> None:
    recording, norm = chain_on(cuda)
    for _ in range(2):
        replay(cuda, recording).wait()
    fake.fail("cuGraphLaunch", code)
    with pytest.raises(error, match="'layer 3'") as caught:
        replay(cuda, recording).wait()
    assert (caught.value.domain, caught.value.code) == ("CUDA", code)
    replay(cuda, recording).wait()
    assert_normed(norm)


def test_a_kernel_that_the_driver_does_not_change_fails_its_command_buffer(
    fake: FakeCuda, cuda: _core.Device
) -> None:
    pipeline, weight = norm_on(cuda).pipeline, cuda.upload(np.ones(WIDTH, np.float32))
    x, out = cuda.upload(np.tile(X, (2, 1))), cuda.buffer(2 * X.nbytes, host=True)
    recording = cuda.record()
    for destination in (out, cuda.buffer(2 * X.nbytes)):
        recording.dispatch(pipeline, [x, weight, destination], PARAMS)
    for _ in range(2):
        replay(cuda, recording).wait()
    fake.fail("cuGraphExecKernelNodeSetParams_v2", LAUNCH_FAILED, after=1)
    with pytest.raises(CommandBufferError, match="'layer 3'"):
        replay(cuda, recording, _core.Step(0, 2)).wait()
    rows = np.frombuffer(out, np.float32).reshape(2, WIDTH)
    rows[:] = 0
    replay(cuda, recording, _core.Step(0, 2)).wait()
    np.testing.assert_allclose(rows, np.tile(NORMED, (2, 1)), rtol=1e-6)


def test_a_kernel_of_a_graph_that_fails_is_found_by_the_wait(
    fake: FakeCuda, cuda: _core.Device
) -> None:
    recording, _ = chain_on(cuda)
    for _ in range(2):
        replay(cuda, recording).wait()
    fake.fail_next_kernel(ILLEGAL_ADDRESS)
    with pytest.raises(PageFaultError, match="'layer 3'"):
        replay(cuda, recording).wait()


def test_a_step_that_a_kernel_refuses_is_refused_before_anything_runs(
    fake: FakeCuda, cuda: _core.Device
) -> None:
    context, head_dim = 4, 64
    rows = cuda.buffer(4 * context * head_dim)
    pipeline = cuda.pipeline("attention", output_gate=0)
    params = np.array([1, 1, head_dim, head_dim, context], np.uint32).tobytes()
    params += np.float32(1).tobytes()
    recording = cuda.record()
    for _ in range(2):
        out = cuda.buffer(4 * head_dim)
        recording.dispatch(pipeline, [rows, rows, rows, rows, out], params)
    for position in range(context):
        replay(cuda, recording, _core.Step(position, 1)).wait()
    assert fake.calls("cuGraphExecKernelNodeSetParams_v2") == 2 * (context - 2)
    n_launched = fake.calls("cuGraphLaunch")
    with pytest.raises(DeviceError, match="exceed the key/value cache of 4 positions"):
        replay(cuda, recording, _core.Step(context, 1))
    assert fake.calls("cuGraphLaunch") == n_launched


def test_a_graph_goes_with_its_recording(fake: FakeCuda, cuda: _core.Device) -> None:
    recording, norm = chain_on(cuda)
    for _ in range(2):
        replay(cuda, recording).wait()
    assert fake.live("graph") == 2  # the graph and its executable
    del recording
    gc.collect()
    assert fake.live("graph") == 0
    assert_normed(norm)
