"""Command buffers and recordings: order, labels, misuse, waiting."""

from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_metal import RMS_NORM_PARAMS, STEP, FakeMetal, Norm, committed

from moeflux import _core
from moeflux.errors import DeviceError

pytestmark = pytest.mark.metal_bench


def test_e1_dispatches_in_a_row_share_one_encoder(
    metal: _core.Device, fake: FakeMetal, tmp_path: Path
) -> None:
    """Of the serial kind, so that no barriers are needed between dependent kernels."""
    fake["capture"] = 1
    norm = Norm(metal)
    metal.start_capture(tmp_path / "one.gputrace")
    commands = metal.queue().command_buffer(STEP, "mixer")
    norm.dispatch(commands)
    norm.dispatch(commands)
    commands.zero(norm.buffers[2])
    norm.dispatch(commands)
    commands.commit()
    metal.stop_capture()
    lines = (tmp_path / "one.gputrace" / "trace.jsonl").read_text().splitlines()
    kinds = [next(iter(json.loads(line))) for line in lines]
    assert kinds == [
        "command_buffer",
        *("encoder", "dispatch", "dispatch"),
        *("encoder", "fill"),
        *("encoder", "dispatch"),
    ]


def test_e3_each_dispatch_is_encoded_once_and_replays_encode_again(
    metal: _core.Device, fake: FakeMetal
) -> None:
    norm = Norm(metal)
    recording = metal.record()
    norm.dispatch(recording)
    norm.dispatch(recording)
    assert len(recording) == 2
    before = fake["dispatches"]
    commands = metal.queue().command_buffer(STEP)
    commands.replay(recording)
    commands.replay(recording)
    norm.dispatch(commands)
    commands.commit()
    commands.wait()
    assert fake["dispatches"] - before == 5


def test_e4_commit_does_not_wait(metal: _core.Device, fake: FakeMetal) -> None:
    fake["delay_us"] = 200_000
    start = time.perf_counter()
    commands = committed(metal)
    assert time.perf_counter() - start < 0.15
    assert not commands.done
    commands.wait()
    assert commands.done


def test_e5_labels_name_the_work_and_its_step(
    metal: _core.Device, fake: FakeMetal, tmp_path: Path
) -> None:
    fake["capture"] = 1
    metal.start_capture(tmp_path / "labels.gputrace")
    for label in ("layer 7 mixer", ""):
        commands = metal.queue().command_buffer(_core.Step(17, 3), label)
        commands.zero(metal.buffer(4))
        commands.commit()
        commands.wait()
    metal.stop_capture()
    lines = (tmp_path / "labels.gputrace" / "trace.jsonl").read_text().splitlines()
    labels = [json.loads(line).get("command_buffer") for line in lines]
    assert "layer 7 mixer, position 17, n_tokens 3" in labels
    assert "position 17, n_tokens 3" in labels


def test_e6_gpu_time_is_known_once_done(metal: _core.Device, fake: FakeMetal) -> None:
    fake["delay_us"] = 2000
    commands = committed(metal)
    commands.wait()
    assert 0.002 <= commands.gpu_seconds < 1


def test_e8_command_buffer_dropped_before_commit_submits_nothing(
    metal: _core.Device, fake: FakeMetal
) -> None:
    commits = fake["commits"]
    norm = Norm(metal)
    commands = metal.queue().command_buffer(STEP)
    norm.dispatch(commands)
    del commands
    gc.collect()
    assert fake["commits"] == commits
    assert not norm.out.any()


def test_e8_encoding_that_fails_ends_its_encoder_and_submits_nothing(
    metal: _core.Device, fake: FakeMetal
) -> None:
    """Metal aborts over an encoder that is released open."""
    commits = fake["commits"]
    norm = Norm(metal)
    commands = metal.queue().command_buffer(STEP)
    commands.zero(norm.buffers[2])
    norm.dispatch(commands)
    fake["pipeline_errors"] = 1
    with pytest.raises(DeviceError):
        commands.commit()
    assert fake["commits"] == commits
    del commands
    gc.collect()


def test_e9_committed_work_keeps_what_it_uses(metal: _core.Device, fake: FakeMetal) -> None:
    fake["delay_us"] = 20_000
    out = metal.buffer(4 << 20, host=True)
    queue = metal.queue()
    for _ in range(5):
        commands = queue.command_buffer(STEP)
        commands.copy(metal.upload(np.full(4 << 20, 5, np.uint8)), out)
        commands.commit()
        del commands
    gc.collect()
    committed(metal).wait()
    assert (np.frombuffer(out, np.uint8) == 5).all()


def test_e11_recording_is_immutable_after_its_first_replay(metal: _core.Device) -> None:
    norm = Norm(metal)
    recording = metal.record()
    metal.queue().command_buffer(STEP).replay(recording)
    appends: list[Callable[[], None]] = [
        lambda: recording.dispatch(norm.pipeline, norm.buffers, RMS_NORM_PARAMS),
        lambda: recording.copy(norm.buffers[0], norm.buffers[2]),
        lambda: recording.zero(norm.buffers[0]),
    ]
    for append in appends:
        with pytest.raises(DeviceError, match="after its first replay"):
            append()


def test_e11_replay_runs_what_was_recorded(metal: _core.Device) -> None:
    norm = Norm(metal)
    recording = metal.record()
    norm.dispatch(recording)
    recording.zero(norm.buffers[0])
    recording.copy(norm.buffers[2], norm.buffers[1])
    for wanted in (norm.wanted, np.zeros(norm.wanted.size)):
        commands = metal.queue().command_buffer(STEP)
        commands.replay(recording)
        commands.commit()
        commands.wait()
        np.testing.assert_allclose(norm.out, wanted, rtol=1e-5)


def test_recording_of_another_device_is_refused(metal: _core.Device) -> None:
    with pytest.raises(DeviceError, match="recording of another device"):
        metal.queue().command_buffer(STEP).replay(_core.open_device("cpu", 1).record())


def test_copy_and_zero_keep_the_order_with_dispatches(metal: _core.Device) -> None:
    norm = Norm(metal)
    kept = metal.buffer(4 * 64)
    commands = metal.queue().command_buffer(STEP)
    norm.dispatch(commands)
    commands.copy(norm.buffers[2], kept)
    commands.zero(norm.buffers[2])
    commands.commit()
    commands.wait()
    assert not norm.out.any()
    np.testing.assert_allclose(np.frombuffer(metal.download(kept), np.float32), norm.wanted, 1e-5)


def test_empty_copies_and_clears_do_nothing(metal: _core.Device) -> None:
    source, destination = metal.upload(b"abcd"), metal.upload(b"efgh")
    commands = metal.queue().command_buffer(STEP)
    commands.copy(source.view(0, 0), destination.view(0, 0))
    commands.zero(destination.view(4, 0))
    commands.commit()
    commands.wait()
    assert metal.download(destination) == b"efgh"


def test_copies_and_clears_say_what_they_need(metal: _core.Device) -> None:
    buffer = metal.buffer(16)
    cases: list[tuple[str, Callable[[_core.Recording], None]]] = [
        ("4 and 8 bytes", lambda e: e.copy(metal.buffer(4), metal.buffer(8))),
        ("overlap, at offsets 0 and 4", lambda e: e.copy(buffer.view(0, 8), buffer.view(4, 8))),
        ("copy needs .* got 5 bytes", lambda e: e.copy(metal.buffer(5), metal.buffer(5))),
        ("zero needs .* at offset 2", lambda e: e.zero(buffer.view(2, 4))),
    ]
    for message, append in cases:
        with pytest.raises(DeviceError, match=message):
            append(metal.record())


def test_wrong_number_of_buffers_and_size_of_params_are_named(metal: _core.Device) -> None:
    norm = Norm(metal)
    for encoder in (metal.record(), metal.queue().command_buffer(STEP)):
        with pytest.raises(DeviceError, match="rms_norm needs 3 buffers, got 2"):
            encoder.dispatch(norm.pipeline, norm.buffers[:2], RMS_NORM_PARAMS)
        with pytest.raises(DeviceError, match="rms_norm needs params of 8 bytes, got 9"):
            encoder.dispatch(norm.pipeline, norm.buffers, RMS_NORM_PARAMS + b"x")


def test_misuse_names_the_label(metal: _core.Device) -> None:
    buffer = metal.buffer(4)
    commands = metal.queue().command_buffer(STEP, label="layer 7")
    assert commands.label == "layer 7"
    with pytest.raises(DeviceError, match="'layer 7', which is not committed"):
        commands.wait()
    with pytest.raises(DeviceError, match="'layer 7', which is not done"):
        _ = commands.gpu_seconds
    commands.commit()
    with pytest.raises(DeviceError, match="'layer 7' is already committed"):
        commands.commit()
    for append in (lambda: commands.zero(buffer), lambda: commands.copy(buffer, buffer)):
        with pytest.raises(DeviceError, match="after commit of command buffer 'layer 7'"):
            append()
    with pytest.raises(DeviceError, match="replay after commit"):
        commands.replay(metal.record())
    with pytest.raises(DeviceError, match="keep_timings after commit"):
        commands.keep_timings()
    commands.wait()
    commands.wait()


def test_no_command_buffer_and_no_encoder_are_errors(metal: _core.Device, fake: FakeMetal) -> None:
    norm = Norm(metal)
    for fault, message in (
        ("nil_command_buffers", "no command buffer for 'late'"),
        ("nil_encoders", "no compute encoder for command buffer 'late'"),
    ):
        fake[fault] = 1
        commands = metal.queue().command_buffer(STEP, "late")
        norm.dispatch(commands)
        with pytest.raises(DeviceError, match=message):
            commands.commit()
    fake["nil_encoders"] = 1
    commands = metal.queue().command_buffer(STEP, "late")
    commands.zero(norm.buffers[2])
    with pytest.raises(DeviceError, match="no blit encoder for command buffer 'late'"):
        commands.commit()


def test_more_command_buffers_than_the_queue_holds_at_a_time(
    metal: _core.Device, fake: FakeMetal
) -> None:
    """An uncommitted one takes no place, and commit waits for a free one."""
    uncommitted = [metal.queue().command_buffer(STEP) for _ in range(100)]
    fake["delay_us"] = 100
    running = [committed(metal) for _ in range(200)]
    running[-1].wait()
    assert all(commands.done for commands in running)
    assert len(uncommitted) == 100


def test_wait_lets_other_threads_run(metal: _core.Device, fake: FakeMetal) -> None:
    fake["delay_us"] = 100_000
    commands = committed(metal)
    moments: list[float] = []
    stop = threading.Event()

    def advance() -> None:
        while not stop.wait(0.001):
            moments.append(time.perf_counter())

    thread = threading.Thread(target=advance)
    thread.start()
    begin = time.perf_counter()
    commands.wait()
    end = time.perf_counter()
    stop.set()
    thread.join()
    assert len([moment for moment in moments if begin < moment < end]) > 5


def test_several_threads_may_wait_for_the_same_work(metal: _core.Device, fake: FakeMetal) -> None:
    fake["delay_us"] = 20_000
    commands = committed(metal)
    threads = [threading.Thread(target=commands.wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert commands.done
