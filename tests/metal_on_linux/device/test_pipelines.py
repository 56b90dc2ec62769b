"""Libraries and pipeline states: compiled when asked for, once, with the exact math mode."""

from __future__ import annotations

import threading

import pytest
from fake_metal import STEP, FakeMetal, Norm, committed

from moeflux import _core
from moeflux.errors import CompileError, DeviceError, KernelNotFoundError, PipelineError

pytestmark = pytest.mark.metal_bench

SAFE_MATH = 0
METAL_3_1 = (3 << 16) + 1


def test_k1_nothing_compiles_before_a_kernel_is_asked_for(fake: FakeMetal) -> None:
    before = fake["libraries"]
    device = _core.open_device("metal")
    assert (fake["libraries"], device.n_compiled) == (before, 0)
    device.pipeline("rms_norm", weight_dtype=0)
    assert fake["libraries"] == before + 1


def test_k1_pipeline_is_compiled_once(metal: _core.Device) -> None:
    norm = Norm(metal)
    committed(metal, norm=norm).wait()
    assert metal.n_compiled == 1
    committed(metal, norm=norm).wait()
    assert metal.n_compiled == 1
    assert metal.pipeline("rms_norm", weight_dtype=0) is norm.pipeline


def test_k2_other_constants_are_another_pipeline(metal: _core.Device) -> None:
    norms = [Norm(metal), Norm(metal)]
    norms[1].pipeline = metal.pipeline("rms_norm", weight_dtype=2)
    for norm in norms:
        committed(metal, norm=norm).wait()
    assert metal.n_compiled == 2
    norms[0].check()


def test_k3_pipeline_state_is_labelled_with_its_key(metal: _core.Device, fake: FakeMetal) -> None:
    committed(metal, norm=Norm(metal)).wait()
    assert fake.text("pipeline_label").endswith(" weight_dtype=0")


def test_k3_unknown_kernel_names_those_there_are(metal: _core.Device) -> None:
    with pytest.raises(
        KernelNotFoundError, match=r"no kernel 'rms_morn', only .*rms_norm"
    ) as caught:
        metal.pipeline("rms_morn")
    assert caught.value.kernel == "rms_morn"
    assert list(caught.value.available) == metal.kernels()
    assert isinstance(caught.value, LookupError)


def test_k3_compiler_errors_come_with_source_and_log(metal: _core.Device, fake: FakeMetal) -> None:
    fake["compile_errors"] = 1
    with pytest.raises(CompileError, match="'norm' does not compile: injected") as caught:
        metal.pipeline("rms_norm", weight_dtype=0)
    assert (caught.value.source, caught.value.log) == ("norm", "injected compile error")
    assert metal.pipeline("rms_norm", weight_dtype=0).kernel == "rms_norm"


def test_k3_function_that_cannot_be_specialised_is_a_pipeline_error(
    metal: _core.Device, fake: FakeMetal
) -> None:
    norm = Norm(metal)
    fake["function_errors"] = 1
    commands = metal.queue().command_buffer(STEP)
    norm.dispatch(commands)
    with pytest.raises(PipelineError, match="cannot be specialised: injected"):
        commands.commit()


def test_k3_pipeline_state_that_metal_refuses_is_a_pipeline_error(
    metal: _core.Device, fake: FakeMetal
) -> None:
    norm = Norm(metal)
    fake["pipeline_errors"] = 1
    commands = metal.queue().command_buffer(STEP)
    norm.dispatch(commands)
    with pytest.raises(PipelineError, match="no pipeline state: injected") as caught:
        commands.commit()
    assert caught.value.kernel
    commands.commit()
    commands.wait()
    norm.check()


def test_compiler_warnings_are_no_errors(metal: _core.Device, fake: FakeMetal) -> None:
    fake["compile_warnings"] = 1
    committed(metal, norm=Norm(metal)).wait()


def test_k5_library_is_compiled_once_for_all_kernels_in_it(
    metal: _core.Device, fake: FakeMetal
) -> None:
    metal.pipeline("rms_norm", weight_dtype=0)
    libraries = fake["libraries"]
    metal.pipeline("gated_rms_norm", weight_dtype=0)
    metal.pipeline("rms_norm", weight_dtype=1)
    assert fake["libraries"] == libraries


def test_k5_threads_that_ask_for_one_pipeline_get_the_same(metal: _core.Device) -> None:
    found: list[_core.Pipeline] = []
    ask = lambda: found.append(metal.pipeline("rms_norm", weight_dtype=0))  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({id(pipeline) for pipeline in found}) == 1


@pytest.mark.parametrize("fault", ["", "no_math_mode"])
def test_shaders_are_compiled_with_the_safe_math_mode(
    metal: _core.Device, fake: FakeMetal, fault: str
) -> None:
    """Metal's own default is fast. Before macOS 15 the option has another name."""
    if fault:
        fake[fault] = 1
    fake["math_mode"] = -1
    named = fake["math_modes_set"]
    metal.pipeline("rms_norm", weight_dtype=0)
    assert (fake["math_modes_set"] > named) == (not fault)
    assert fake["math_mode"] == SAFE_MATH
    assert fake["language_version"] == METAL_3_1


def test_warm_all_compiles_what_was_asked_for(metal: _core.Device, fake: FakeMetal) -> None:
    norm = Norm(metal)
    metal.warm_all()
    compiled, libraries = metal.n_compiled, fake["libraries"]
    assert compiled >= 1
    committed(metal, norm=norm).wait()
    assert (metal.n_compiled, fake["libraries"]) == (compiled, libraries)
    norm.check()


def test_unknown_and_missing_constants_are_named(metal: _core.Device) -> None:
    with pytest.raises(DeviceError, match="rms_norm needs the constants weight_dtype, got colour"):
        metal.pipeline("rms_norm", colour=1)


def test_threadgroup_larger_than_the_pipeline_state_takes_is_an_error(
    metal: _core.Device, fake: FakeMetal
) -> None:
    """Registers may leave room for fewer threads than the device's limit."""
    fake["most_threads"] = 16
    norm = Norm(metal)
    commands = metal.queue().command_buffer(STEP)
    norm.dispatch(commands)
    with pytest.raises(PipelineError, match="threads in a threadgroup, the device gives it 16"):
        commands.commit()


def test_pipeline_of_another_device_is_refused(metal: _core.Device) -> None:
    foreign = _core.open_device("cpu", 1).pipeline("rms_norm", weight_dtype=0)
    norm = Norm(metal)
    norm.pipeline = foreign
    with pytest.raises(DeviceError, match="pipeline of another device"):
        norm.dispatch(metal.queue().command_buffer(STEP))


def constants_of(device: _core.Device, kernel: str) -> list[str]:
    """Names of the constants that a kernel asks for."""
    with pytest.raises(DeviceError) as caught:
        device.pipeline(kernel, no_such_constant=0)
    listed = str(caught.value).partition(" needs the constants ")[2].partition(", got ")[0]
    return [] if listed == "none" else listed.split(", ")


def test_every_function_that_a_kernel_may_launch_is_in_the_shaders(metal: _core.Device) -> None:
    """A pipeline asks for all of its kernel's functions."""
    for kernel in metal.kernels():
        constants = dict.fromkeys(constants_of(metal, kernel), 0)
        assert metal.pipeline(kernel, **constants).kernel == kernel
