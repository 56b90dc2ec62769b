"""Whether there is a CUDA device, and if not, why."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_cuda import FakeCuda, build

import moeflux
from moeflux import _core, backends
from moeflux.errors import DeviceError, NoDeviceError

NO_DEVICE = 100
SYSTEM_DRIVER_MISMATCH = 803


def test_a_machine_without_a_driver_says_so() -> None:
    options = _core.CudaOptions(driver="libabsent_cuda.so.1")
    assert "cuda" not in _core.device_names(options)
    with pytest.raises(NoDeviceError, match=r"no CUDA driver: libabsent_cuda\.so\.1"):
        _core.open_device("cuda", cuda=options)


def test_the_device_comes_before_the_cpu_and_tells_what_it_is(fake: FakeCuda) -> None:
    assert _core.device_names(fake.options()) == ["cuda", "cpu"]
    device = _core.open_device("cuda", cuda=fake.options())
    assert device.name == "cuda"
    assert device.description == (
        "Fake GPU, 8192 MiB, compute capability 9.0, driver for CUDA 13.0, NVRTC 13.0"
    )


def test_settings_choose_driver_and_compiler(fake: FakeCuda, tmp_path: Path) -> None:
    settings = moeflux.Settings(
        cuda_driver=str(fake.driver),
        cuda_compiler=str(fake.compiler),
        kernel_folder=str(tmp_path),
    )
    assert backends.device_names(settings)[0] == "cuda"
    assert backends.open_device("auto", settings).name == "cuda"


def test_a_missing_compiler_names_the_extra_that_brings_it(fake: FakeCuda) -> None:
    options = _core.CudaOptions(str(fake.driver), ["libabsent_nvrtc.so.13"])
    assert "cuda" not in _core.device_names(options)
    with pytest.raises(NoDeviceError, match=r"moeflux\[cuda\].*libabsent_nvrtc\.so\.13"):
        _core.open_device("cuda", cuda=options)


def test_a_library_that_is_no_compiler_is_named(fake: FakeCuda) -> None:
    options = _core.CudaOptions(str(fake.driver), [str(fake.driver)])
    with pytest.raises(NoDeviceError, match=r"libcuda\.so\.1 is no NVRTC"):
        _core.open_device("cuda", cuda=options)


def test_a_library_that_is_no_driver_is_refused(fake: FakeCuda) -> None:
    with pytest.raises(NoDeviceError, match="no function cuInit"):
        _core.open_device("cuda", cuda=_core.CudaOptions(str(fake.compiler)))


def test_a_compiler_newer_than_the_driver_gives_way_to_the_next(
    fake: FakeCuda, tmp_path: Path
) -> None:
    newer = build(tmp_path / "newer", major=14)
    options = _core.CudaOptions(str(fake.driver), [str(newer.compiler), str(fake.compiler)])
    assert "NVRTC 13.0" in _core.open_device("cuda", cuda=options).description
    only = _core.CudaOptions(str(fake.driver), [str(newer.compiler)])
    with pytest.raises(NoDeviceError, match=r"is of CUDA 14, the driver serves CUDA 13\.0"):
        _core.open_device("cuda", cuda=only)


def test_a_driver_that_does_not_start_says_why(fake: FakeCuda) -> None:
    fake.fail("cuInit", SYSTEM_DRIVER_MISMATCH)
    with pytest.raises(NoDeviceError, match=f"does not start: .*code {SYSTEM_DRIVER_MISMATCH}"):
        _core.open_device("cuda", cuda=fake.options())


def test_a_driver_without_a_gpu_says_so(fake: FakeCuda) -> None:
    fake.set("n_devices", 0)
    with pytest.raises(NoDeviceError, match="finds no GPU"):
        _core.open_device("cuda", cuda=fake.options())
    fake.fail("cuDeviceGetCount", NO_DEVICE)
    with pytest.raises(NoDeviceError, match=f"finds no GPU: .*code {NO_DEVICE}"):
        _core.open_device("cuda", cuda=fake.options())


@pytest.mark.parametrize(
    ("capability", "reason"),
    [(70, r"capability 7\.0, 7\.5 or later is needed"), (120, r"compiles nothing for .* 12\.0")],
)
def test_a_gpu_that_the_compiler_does_not_know_is_named(
    fake: FakeCuda, capability: int, reason: str
) -> None:
    fake.set("capability", capability)
    with pytest.raises(NoDeviceError, match=reason):
        _core.open_device("cuda", cuda=fake.options())


@pytest.mark.parametrize("entry_point", ["cuDevicePrimaryCtxRetain", "cuStreamCreate"])
def test_a_gpu_that_gives_no_context_or_stream_leaves_nothing_behind(
    fake: FakeCuda, entry_point: str
) -> None:
    fake.fail(entry_point, 2)
    with pytest.raises(DeviceError, match="the GPU gave no"):
        _core.open_device("cuda", cuda=fake.options())
    assert [fake.live(what) for what in ("context", "stream")] == [0, 0]


def test_everything_goes_with_the_device(fake: FakeCuda) -> None:
    device = _core.open_device("cuda", cuda=fake.options())
    buffers = [device.buffer(4096), device.buffer(4096, host=True)]
    commands = device.queue().command_buffer(_core.Step(0, 1))
    commands.zero(buffers[0])
    commands.commit()
    commands.wait()
    del commands, buffers, device
    kinds = ("memory", "host memory", "stream", "event", "module", "context")
    assert {what: fake.live(what) for what in kinds} == dict.fromkeys(kinds, 0)
    assert fake.context_depth == 0


def test_the_list_of_devices_gives_the_reason(
    fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOEFLUX_CUDA_DRIVER", str(fake.driver))
    monkeypatch.setenv("MOEFLUX_CUDA_COMPILER", "libabsent_nvrtc.so.13")
    (cuda,) = (device for device in moeflux.devices() if device.name == "cuda")
    assert not cuda.available
    assert "pip install 'moeflux[cuda]'" in cuda.reason
