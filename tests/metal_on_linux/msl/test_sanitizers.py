"""Mode `address`: a fault ends the process with a report that names the shader's line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from shader_library import run_tool

pytestmark = pytest.mark.metal_bench

KERNELS = """
kernel void buffer_overrun(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  x[i + 1] = 2.0f;
}
kernel void variable_overrun(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float first[64], second[64];
  threadgroup float* p = second;
  p[i + 1] = first[0];
}
kernel void dynamic_overrun(device float* x [[buffer(0)]], threadgroup float* s [[threadgroup(0)]],
                            uint i [[thread_index_in_threadgroup]]) {
  s[i + 1] = x[i];
}
kernel void array_overrun(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  float values[8] = {};
  values[i % 9] = x[i];
  x[i] = values[i % 8];
}
kernel void wide_shift(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  x[i] = float(1u << (i + 1));
}
kernel void misaligned(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  x[i] = reinterpret_cast<device const float4*>(x + i / 2)->x;
}
kernel void sound(device float* x [[buffer(0)]], threadgroup float* s [[threadgroup(0)]],
                  uint i [[thread_index_in_threadgroup]]) {
  threadgroup float first[64], second[64];
  float values[8] = {};
  values[i % 8] = x[i];
  s[i] = first[i] = second[i] = values[i % 8];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  x[i] = simd_sum(s[63 - i]) + first[i ^ 1] + second[i] + float(1u << (i % 32));
  x[i] += reinterpret_cast<device const float4*>(x + i / 4 * 4)->x;
}
"""

FAULTS = {
    "buffer_overrun": ("heap-buffer-overflow", 5),
    "variable_overrun": ("use-after-poison", 10),
    "dynamic_overrun": ("use-after-poison", 14),
    "array_overrun": ("index 8 out of bounds", 18),
    "wide_shift": ("shift exponent 32 is too large", 22),
    "misaligned": ("misaligned address", 25),
}


@pytest.fixture(scope="module")
def library(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shader = tmp_path_factory.mktemp("sanitized") / "planted.metal"
    shader.write_text("#include <metal_stdlib>\nusing namespace metal;\n" + KERNELS)
    result = run_tool("compile.py", shader, "--cache", cache, "--mode", "address")
    assert result.returncode == 0, result.stderr
    return Path(result.stdout.strip())


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
    message, line = FAULTS[kernel]
    result = run(library, kernel)
    assert result.returncode != 0
    assert message in result.stderr
    assert f"planted.metal:{line}:" in result.stderr


def test_a_sound_kernel_runs(library: Path) -> None:
    result = run(library, "sound")
    assert (result.returncode, result.stderr) == (0, "")
