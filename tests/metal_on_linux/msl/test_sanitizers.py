"""Mode `address`: a fault ends the process with a report that names the shader's line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from shader_library import KERNELS, ShaderLibrary, place, run_tool

pytestmark = pytest.mark.metal_bench

SHADER = KERNELS / "sanitizers.metal"

FAULTS = {
    "buffer_overrun": "heap-buffer-overflow",
    "variable_overrun": "use-after-poison",
    "dynamic_overrun": "use-after-poison",
    "array_overrun": "index 8 out of bounds",
    "wide_shift": "shift exponent 32 is too large",
    "misaligned": "misaligned address",
}


@pytest.fixture(scope="module")
def library(cache: Path) -> Path:
    return ShaderLibrary.compiled(SHADER, cache, "--mode", "address")


def run(library: Path, kernel: str) -> subprocess.CompletedProcess[str]:
    runtime = run_tool("compile.py", "--sanitizer-runtime").stdout.strip()
    options = "detect_leaks=0:detect_stack_use_after_return=0"
    return subprocess.run(
        [sys.executable, str(Path(__file__).parent / "sanitized_run.py"), str(library), kernel],
        env={**os.environ, "LD_PRELOAD": runtime, "ASAN_OPTIONS": options},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("kernel", FAULTS)
def test_a_fault_ends_the_process_and_names_its_line(library: Path, kernel: str) -> None:
    result = run(library, kernel)
    assert result.returncode != 0
    assert FAULTS[kernel] in result.stderr
    assert f"{place(SHADER, kernel)}:" in result.stderr


def test_a_sound_kernel_runs(library: Path) -> None:
    result = run(library, "sound")
    assert (result.returncode, result.stderr) == (0, "")
