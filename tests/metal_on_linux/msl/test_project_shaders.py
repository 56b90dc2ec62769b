"""Every shader of the project, as it is: rules, address spaces, both host compilers, CUDA."""

import json
from pathlib import Path
from typing import Any

import pytest
from shader_library import ShaderLibrary, run_tool

pytestmark = pytest.mark.metal_bench

SHADERS = sorted((Path(__file__).resolve().parents[3] / "shaders").glob("*.metal"))
# 4-bit codes in groups of 64 with bfloat16 scales, as params.h packs a format.
FORMAT = 4 | 64 << 8 | 2 << 24
FORMATS = [f"--constant={name}={FORMAT}" for name in ("format", "gate_format", "up_format")]

each_shader = pytest.mark.parametrize("shader", SHADERS, ids=[path.stem for path in SHADERS])


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    result = run_tool("translate.py", *SHADERS, "--kernels")
    assert result.returncode == 0, result.stderr
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


def kernels_of(table: dict[str, Any], shader: Path) -> list[str]:
    return [kernel["name"] for kernel in table["kernels"] if kernel["file"] == str(shader)]


@each_shader
def test_address_spaces_and_language_are_sound(shader: Path, cache: Path) -> None:
    assert run_tool("compile.py", shader, "--cache", cache, "--mode", "check").stderr == ""


@pytest.mark.parametrize("compiler", ["clang++-19", "g++"])
@each_shader
def test_it_compiles_for_the_host(
    shader: Path, compiler: str, cache: Path, table: dict[str, Any]
) -> None:
    library = ShaderLibrary.compile(shader, cache, "--compiler", compiler)
    assert library.kernels == kernels_of(table, shader)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@each_shader
def test_it_compiles_for_cuda(shader: Path, arch: str, table: dict[str, Any]) -> None:
    result = run_tool("compile_cuda.py", shader, "--arch", arch, *FORMATS)
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)
    assert sorted(row["kernel"] for row in rows) == sorted(kernels_of(table, shader))
    assert all(0 < row["registers"] <= 255 for row in rows)


def test_every_kernel_has_a_table_row(table: dict[str, Any]) -> None:
    assert len(table["kernels"]) >= len(SHADERS) > 0
    for kernel in table["kernels"]:
        buffers = [a["index"] for a in kernel["arguments"] if a["kind"] == "buffer"]
        assert buffers == list(range(len(buffers))), kernel["name"]
