"""Kernels of the CUDA backend: compiled once, kept, and compiled again where they are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_cuda import FakeCuda
from norms import NORMED, committed, norm_on

from moeflux import _core
from moeflux.errors import CompileError, DeviceError, KernelNotFoundError, PipelineError

INVALID_IMAGE = 200
COMPILATION = 6


def run_norm(fake: FakeCuda, folder: Path | str) -> int:
    """Compilations that one run of a new device takes."""
    device = _core.open_device("cuda", cuda=fake.options(folder))
    norm = norm_on(device)
    for _ in range(2):
        committed(device, norm).wait()
    np.testing.assert_allclose(norm.out, NORMED, rtol=1e-6)
    assert device.n_compiled == 1
    return fake.n_compiled()


def test_a_kernel_is_compiled_once_and_found_by_the_next_device(
    fake: FakeCuda, tmp_path: Path
) -> None:
    assert [run_norm(fake, tmp_path), run_norm(fake, tmp_path)] == [1, 0]
    (kept,) = tmp_path.glob("*/*")
    assert kept.name == "rms_norm.weight_dtype=0.cubin"
    assert kept.parent.name.endswith("-sm_90-nvrtc13.0")


def test_without_a_folder_nothing_is_kept(fake: FakeCuda) -> None:
    assert [run_norm(fake, ""), run_norm(fake, "")] == [1, 1]


def test_another_gpu_finds_nothing_of_this_one(fake: FakeCuda, tmp_path: Path) -> None:
    run_norm(fake, tmp_path)
    fake.set("capability", 80)
    assert run_norm(fake, tmp_path) == 1


@pytest.mark.parametrize("damage", [b"", b"fake cubin\n", b"fake cubin\n/no/such.so\nend\n"])
def test_a_damaged_file_is_replaced(fake: FakeCuda, tmp_path: Path, damage: bytes) -> None:
    run_norm(fake, tmp_path)
    (kept,) = tmp_path.glob("*/*")
    kept.write_bytes(damage)
    assert [run_norm(fake, tmp_path), run_norm(fake, tmp_path)] == [1, 0]


def test_a_folder_that_cannot_be_written_to_costs_nothing_but_time(
    fake: FakeCuda, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"no folder")
    assert [run_norm(fake, tmp_path / "file"), run_norm(fake, tmp_path / "file")] == [1, 1]


def test_what_the_compiler_says_is_in_the_error(fake: FakeCuda, cuda: _core.Device) -> None:
    norm = norm_on(cuda)
    fake.fail_next_compile(COMPILATION)
    with pytest.raises(CompileError, match=r"planted\.metal\(7\): error: planted") as caught:
        committed(cuda, norm)
    assert caught.value.source == "norm"
    committed(cuda, norm).wait()


def test_an_image_that_the_gpu_refuses_is_a_pipeline_error(
    fake: FakeCuda, cuda: _core.Device
) -> None:
    norm = norm_on(cuda)
    fake.fail("cuModuleLoadData", INVALID_IMAGE)
    with pytest.raises(PipelineError, match=f"rms_norm.*code {INVALID_IMAGE}"):
        committed(cuda, norm)


def test_kernels_are_those_of_the_other_gpu_backend(cuda: _core.Device) -> None:
    assert {"matmul", "attention", "gated_delta_net", "expert_down"} <= set(cuda.kernels())
    with pytest.raises(KernelNotFoundError, match="'no_such_kernel'"):
        cuda.pipeline("no_such_kernel")
    with pytest.raises(DeviceError, match="rms_norm needs the constants weight_dtype, got colour"):
        cuda.pipeline("rms_norm", colour=1)
    assert cuda.pipeline("rms_norm", weight_dtype=0) is cuda.pipeline("rms_norm", weight_dtype=0)


def test_warming_compiles_what_was_asked_for(fake: FakeCuda, cuda: _core.Device) -> None:
    cuda.pipeline("rms_norm", weight_dtype=0)
    cuda.pipeline("rms_norm", weight_dtype=2)
    cuda.warm_all()
    assert (cuda.n_compiled, fake.n_compiled()) == (2, 2)
    cuda.warm_all()
    assert fake.n_compiled() == 0
