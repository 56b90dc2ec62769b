"""Devices: names, settings, pipelines."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import moeflux
from moeflux import _core
from moeflux.errors import DeviceError


def test_core_has_the_version_of_the_package() -> None:
    assert _core.__version__ == moeflux.__version__


def test_cpu_is_always_there_and_comes_last() -> None:
    assert _core.device_names()[-1] == "cpu"


def test_every_listed_device_opens() -> None:
    for name in _core.device_names():
        assert _core.open_device(name).name == name


def test_unknown_device_names_those_that_exist() -> None:
    with pytest.raises(DeviceError, match=r"'abacus'.*cpu"):
        _core.open_device("abacus")


def test_description_tells_instruction_set_and_threads() -> None:
    device = _core.open_device("cpu", n_threads=3, instruction_set="baseline")
    assert "baseline, 3 threads" in device.description


def test_zero_threads_means_one_per_core() -> None:
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert f", {n_cores} thread" in _core.open_device("cpu").description


def test_unknown_instruction_set_names_those_that_exist() -> None:
    with pytest.raises(DeviceError, match=r"'mmx'.*baseline"):
        _core.open_device("cpu", instruction_set="mmx")


def test_negative_threads_are_refused() -> None:
    with pytest.raises(ValueError, match=r"n_threads must be between 0 and .*, got -1"):
        _core.open_device("cpu", n_threads=-1)


def test_absurd_thread_count_is_refused() -> None:
    with pytest.raises(DeviceError, match="at most 1024 threads, got 100000"):
        _core.open_device("cpu", n_threads=100000)


def test_kernels_are_listed_and_compile(cpu: _core.Device) -> None:
    assert "rms_norm" in cpu.kernels()
    pipeline = cpu.pipeline("rms_norm", weight_dtype=2)
    assert pipeline.kernel == "rms_norm"
    assert pipeline.constants == {"weight_dtype": 2}


def test_pipeline_is_compiled_once(cpu: _core.Device) -> None:
    assert cpu.pipeline("rms_norm", weight_dtype=0) is cpu.pipeline("rms_norm", weight_dtype=0)


def test_unknown_kernel_is_named(cpu: _core.Device) -> None:
    with pytest.raises(DeviceError, match="no kernel 'no_such_kernel'"):
        cpu.pipeline("no_such_kernel")


def test_unknown_and_missing_constants_are_named(cpu: _core.Device) -> None:
    with pytest.raises(DeviceError, match="rms_norm needs the constants weight_dtype, got colour"):
        cpu.pipeline("rms_norm", colour=1)


def test_negative_constant_is_refused(cpu: _core.Device) -> None:
    with pytest.raises(ValueError, match="weight_dtype must be between"):
        cpu.pipeline("rms_norm", weight_dtype=-1)


FORK = """
import os, signal
from moeflux import _core
from moeflux.errors import DeviceError

device = _core.open_device("cpu", n_threads=2)
queue = device.queue()
step = _core.Step(0, 1)
buffer = device.buffer(4096)
commands = queue.command_buffer(step, "parent")
commands.zero(buffer)
commands.commit()
pool = device.read_pool(2)
ticket = pool.submit(_core.File(__file__), 0, 1, buffer)
ticket.wait()

child = os.fork()
if child == 0:
    signal.alarm(20)
    unused = queue.command_buffer(step, "child")
    for use in (commands.wait, unused.commit, pool.drain, pool.close, ticket.wait, ticket.cancel):
        try:
            use()
        except DeviceError as error:
            assert "forked process" in str(error), error
        else:
            os._exit(1)
    del use, commands, unused, queue, device, ticket, pool, buffer
    fresh = _core.open_device("cpu", n_threads=2)
    again = fresh.queue().command_buffer(step, "fresh")
    again.zero(fresh.buffer(4096))
    again.commit()
    again.wait()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
commands.wait()
"""


def test_forked_child_gets_a_typed_error_and_can_open_its_own_device(tmp_path: Path) -> None:
    script = tmp_path / "fork.py"
    script.write_text(FORK)
    command = [sys.executable, "-W", "ignore", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


THREADS_AT_EXIT = """
from moeflux import _core
device = _core.open_device("cpu")
pool = device.read_pool()
buffer = device.buffer(1 << 24)
tickets = [pool.submit(_core.File(__file__), 0, 1, buffer) for _ in range(100)]
commands = device.queue().command_buffer(_core.Step(0, 1))
commands.zero(buffer)
commands.commit()
"""


def test_interpreter_exits_cleanly_with_work_under_way(tmp_path: Path) -> None:
    script = tmp_path / "leave.py"
    script.write_text(THREADS_AT_EXIT)
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
