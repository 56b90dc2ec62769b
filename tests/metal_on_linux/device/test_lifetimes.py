"""What lives how long: no leaks, any order of teardown, forks, and the end of the process."""

from __future__ import annotations

import gc
import subprocess
from collections.abc import Callable

import pytest
from fake_metal import STEP, FakeMetal, Norm, committed

from moeflux import _core
from moeflux.errors import DeviceError

pytestmark = pytest.mark.metal_bench

InOwnProcess = Callable[[str], subprocess.CompletedProcess[str]]


def everything(device: _core.Device) -> dict[str, object]:
    """One of each kind of object, with work under way."""
    norm = Norm(device)
    recording = device.record()
    norm.dispatch(recording)
    queue = device.queue()
    commands = queue.command_buffer(STEP)
    commands.keep_timings()
    commands.replay(recording)
    commands.commit()
    unused = queue.command_buffer(STEP)
    norm.dispatch(unused)
    return {
        "device": device,
        "norm": norm,
        "recording": recording,
        "queue": queue,
        "commands": commands,
        "unused": unused,
    }


def test_no_object_is_left_when_all_are_dropped(fake: FakeMetal) -> None:
    before = fake.live_objects()
    objects = everything(_core.open_device("metal"))
    assert fake.live_objects() > before
    del objects
    gc.collect()
    assert fake.live_objects() == before
    assert fake["misuses"] == 0


@pytest.mark.parametrize("first", ["device", "norm", "recording", "queue", "commands", "unused"])
def test_objects_may_be_dropped_in_any_order(fake: FakeMetal, first: str) -> None:
    """With work under way and the device among the first to go."""
    fake["delay_us"] = 2000
    before = fake.live_objects()
    for second in ("device", "commands"):
        objects = everything(_core.open_device("metal"))
        for name in dict.fromkeys([first, second, *objects]):
            del objects[name]
            gc.collect()
    assert fake.live_objects() == before


FAULTS = (
    "compile_errors",
    "function_errors",
    "pipeline_errors",
    "nil_buffers",
    "nil_command_buffers",
    "nil_encoders",
    "sample_buffer_errors",
    "command_error",
)


def timed_norm() -> None:
    """Opens a device and runs a kernel on it, then clears its output."""
    device = _core.open_device("metal")
    norm = Norm(device)
    for keep_timings in (False, True):
        commands = device.queue().command_buffer(STEP)
        if keep_timings:
            commands.keep_timings()
        norm.dispatch(commands)
        commands.zero(norm.buffers[2])
        commands.commit()
        commands.wait()


@pytest.mark.parametrize("fault", FAULTS)
def test_failures_leak_nothing(fake: FakeMetal, fault: str) -> None:
    before = fake.live_objects()
    fake[fault] = 1
    with pytest.raises(DeviceError):
        timed_norm()
    assert fake.live_objects() == before
    timed_norm()
    assert fake.live_objects() == before


def test_planted_leak_is_seen(in_own_process: InOwnProcess) -> None:
    script = """
from fake_metal import FakeMetal
fake = FakeMetal()
before = fake.live_objects()
assert fake.misuse("leak") == ""
assert fake.live_objects() == before + 1
"""
    done = in_own_process(script)
    assert (done.returncode, done.stderr) == (0, "")


def test_device_drains_its_work_before_it_goes(fake: FakeMetal) -> None:
    fake["delay_us"] = 50_000
    device = _core.open_device("metal")
    committed(device)
    del device
    gc.collect()
    assert fake["in_flight"] == 0


MANY = """
import resource, threading
from fake_metal import STEP, FakeMetal
from moeflux import _core

fake = FakeMetal()
device = _core.open_device("metal")
recording = device.record()
recording.zero(device.buffer(64))
queue = device.queue()

def work(n, every):
    for i in range(1, n + 1):
        commands = queue.command_buffer(STEP, "many")
        commands.replay(recording)
        if i % every == 0:
            commands.commit()
    commands.wait()

def on_a_thread(*arguments):
    thread = threading.Thread(target=work, args=arguments)
    thread.start()
    thread.join()

on_a_thread(500, 1)
objects, peak = fake.live_objects(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
on_a_thread({n}, {every})
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
assert fake.live_objects() == objects, (fake.live_objects(), objects)
assert grown < 8 << 10, grown
"""


@pytest.mark.parametrize("every", [1, 1000], ids=["committed", "dropped"])
def test_50000_command_buffers_of_a_thread_without_a_pool_leave_nothing(
    in_own_process: InOwnProcess, every: int
) -> None:
    """The thread is Python's: it has no autorelease pool. Peak memory may grow by 8 MiB."""
    done = in_own_process(MANY.replace("{n}", "50_000").replace("{every}", str(every)))
    assert (done.returncode, done.stderr) == (0, "")


FORK = """
import gc, os, signal
from pathlib import Path
from fake_metal import STEP, Norm
from moeflux import _core
from moeflux.errors import DeviceError

device = _core.open_device("metal")
queue = device.queue()
norm = Norm(device)
mapping = device.wrap(_core.Mapping(Path(__file__)))
recording = device.record()
norm.dispatch(recording)
commands = queue.command_buffer(STEP, "parent")
commands.replay(recording)
commands.commit()

child = os.fork()
if child == 0:
    signal.alarm(20)
    unused = queue.command_buffer(STEP, "child")
    uses = [
        commands.wait,
        unused.commit,
        device.queue,
        device.warm_all,
        device.memory,
        lambda: device.description,
        lambda: device.buffer(64),
        lambda: device.wrap(_core.Mapping(Path(__file__))),
        lambda: device.upload(b"abc"),
        lambda: device.pipeline("rms_norm", weight_dtype=0),
        lambda: device.start_capture("/nowhere"),
        lambda: device.is_capturing,
        device.stop_capture,
        device.begin_scope,
        device.end_scope,
    ]
    for use in uses:
        try:
            use()
        except DeviceError as error:
            assert "forked process" in str(error), error
        else:
            os._exit(1)
    del use, uses, unused, commands, queue, norm, recording, mapping, device
    gc.collect()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
commands.wait()
norm.check()
"""


def test_forked_child_gets_a_typed_error_and_leaves_the_parent_alone(
    in_own_process: InOwnProcess,
) -> None:
    done = in_own_process(FORK)
    assert (done.returncode, done.stderr) == (0, "")


LEAVE = """
from fake_metal import STEP, FakeMetal, Norm
from moeflux import _core

FakeMetal()["delay_us"] = 20_000
device = _core.open_device("metal")
norm = Norm(device)
pool = device.read_pool()
commands = [device.queue().command_buffer(STEP) for _ in range(5)]
for command_buffer in commands:
    norm.dispatch(command_buffer)
    command_buffer.commit()
"""


def test_interpreter_exits_cleanly_with_work_under_way(in_own_process: InOwnProcess) -> None:
    done = in_own_process(LEAVE)
    assert (done.returncode, done.stderr) == (0, "")
