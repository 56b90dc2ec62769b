"""Race mode: every fault has a sound kernel beside it."""

import numpy as np
import pytest
from conftest import Compile
from shader_library import Launch, ShaderFault, ShaderLibrary

pytestmark = pytest.mark.metal_bench

KERNELS = """
#define KERNEL(name) kernel_arguments
kernel void missing_barrier(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float s[64];
  s[i] = 0.0f;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  s[i] = x[i];  // PLACE missing_barrier
  x[i] = s[63 - i];
}
kernel void missing_barrier_sound(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float s[64];
  s[i] = x[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  x[i] = s[63 - i];
}
kernel void reused(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float s[64];
  for (uint round = 0; round < 2; ++round) {
    s[i] = x[i];  // PLACE reused
    threadgroup_barrier(mem_flags::mem_threadgroup);
    x[i] = s[63 - i];
  }
}
kernel void reused_sound(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float s[64];
  for (uint round = 0; round < 2; ++round) {
    s[i] = x[i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    x[i] = s[63 - i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}
kernel void device_memory(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  x[i] = 1.0f;
  threadgroup_barrier(mem_flags::mem_none);
  x[64 + i] = x[63 - i];  // PLACE device_memory
}
kernel void wrong_flags(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  x[i] = 1.0f;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  x[64 + i] = x[63 - i];  // PLACE wrong_flags
}
kernel void wrong_flags_sound(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  x[i] = 1.0f;
  threadgroup_barrier(mem_flags::mem_device);
  x[64 + i] = x[63 - i];
}
kernel void two_threadgroups(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  x[i] = float(i);  // PLACE two_threadgroups
}
kernel void two_threadgroups_sound(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  x[i] = float(i);
}
kernel void read_elsewhere(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  const float before = x[i ^ 64];
  threadgroup_barrier(mem_flags::mem_device);
  x[i] = before;  // PLACE read_elsewhere
}
kernel void read_elsewhere_sound(device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
                                 uint i [[thread_position_in_grid]]) {
  y[i] = x[i ^ 64];
}
kernel void simdgroup_order(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float s[64];
  s[i] = x[i];
  simdgroup_barrier(mem_flags::mem_device);
  x[i] = s[i ^ 1];  // PLACE simdgroup_order
}
kernel void simdgroup_order_sound(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float s[64];
  s[i] = x[i];
  simdgroup_barrier(mem_flags::mem_threadgroup);
  x[i] = s[i ^ 1];
}
kernel void matrix_order(device float* x [[buffer(0)]], uint i [[thread_index_in_simdgroup]]) {
  threadgroup float s[64];
  s[i] = s[i + 32] = x[i];
  simdgroup_float8x8 a;
  simdgroup_load(a, s);  // PLACE matrix_order
  simdgroup_barrier(mem_flags::mem_threadgroup);
  simdgroup_store(a, x + i / 32 * 64);
}
kernel void matrix_order_sound(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float s[64];
  s[i] = x[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (i >= 32) return;
  simdgroup_float8x8 a;
  simdgroup_load(a, s);
  simdgroup_store(a, x + 64);
}
kernel void plain_and_atomic(device atomic_uint* n [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  atomic_fetch_add_explicit(n, 1u, memory_order_relaxed);
  if (i == 5) *reinterpret_cast<device uint*>(n) = 7u;  // PLACE plain_and_atomic
}
kernel void plain_and_atomic_sound(device atomic_uint* n [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  atomic_fetch_add_explicit(n, i, memory_order_relaxed);
}
kernel void never_written(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float s[64];
  if (i < 60) s[i] = 1.0f;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  x[i] = s[i];  // PLACE never_written
}
kernel void never_written_sound(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float s[64];
  s[i] = 1.0f;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  x[i] = s[i];
}
kernel void overrun(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  x[i + 65] = 0.0f;  // PLACE overrun
}
kernel void overrun_sound(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  x[i + 64] = 0.0f;
}
kernel void threadgroup_overrun(device float* x [[buffer(0)]], threadgroup float* s [[threadgroup(0)]],
                                uint i [[thread_index_in_threadgroup]]) {
  s[i + 1] = x[i];  // PLACE threadgroup_overrun
}
kernel void threadgroup_overrun_sound(device float* x [[buffer(0)]], threadgroup float* s [[threadgroup(0)]],
                                      uint i [[thread_index_in_threadgroup]]) {
  s[i] = x[i];
}
kernel void copied(device float4* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  const float4 value = x[i % 16];
  x[16 + i % 16] = value;  // PLACE copied
}
kernel void copied_sound(device float4* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  const float4 value = x[i / 4 % 16];
  if (i % 4 == 0) x[16 + i / 4] = value;
}
""".replace("#define KERNEL(name) kernel_arguments\n", "")

RACES = [
    "missing_barrier", "reused", "device_memory", "wrong_flags", "two_threadgroups", "read_elsewhere",
    "simdgroup_order", "matrix_order", "plain_and_atomic", "copied",
]  # fmt: skip
BOUNDS = ["overrun", "threadgroup_overrun"]
TWO_THREADGROUPS = ("two_threadgroups", "read_elsewhere")


@pytest.fixture(scope="module")
def library(compile_text: Compile) -> ShaderLibrary:
    return compile_text(KERNELS, "--mode", "race")


def run(library: ShaderLibrary, kernel: str, order: int) -> None:
    across = kernel.removesuffix("_sound") in TWO_THREADGROUPS
    launch = Launch((2,) if across else (1,), (64,), threadgroup_nbytes=(256,), order=order)
    x, y = (np.ones(128, np.float32) for _ in range(2))
    library.run(kernel, x, y, launch=launch)


def place(kernel: str) -> str:
    lines = KERNELS.split("\n")
    number = next(i for i, line in enumerate(lines) if line.endswith(f"// PLACE {kernel}"))
    return f"planted.metal:{number + 3}"


@pytest.mark.parametrize("order", range(4))
@pytest.mark.parametrize("kernel", RACES)
def test_a_race_is_found_with_its_line(library: ShaderLibrary, kernel: str, order: int) -> None:
    with pytest.raises(ShaderFault) as caught:
        run(library, kernel, order)
    assert caught.value.status == "RACE"
    assert caught.value.races > 0
    assert place(kernel) in str(caught.value)


def test_a_read_of_threadgroup_memory_that_nobody_wrote_is_found(library: ShaderLibrary) -> None:
    with pytest.raises(ShaderFault, match=place("never_written")) as caught:
        run(library, "never_written", 0)
    assert caught.value.status == "UNINITIALISED_READ"


@pytest.mark.parametrize("kernel", BOUNDS)
def test_an_access_behind_the_bound_bytes_is_found(library: ShaderLibrary, kernel: str) -> None:
    with pytest.raises(ShaderFault, match=place(kernel)) as caught:
        run(library, kernel, 0)
    assert caught.value.status == "OUT_OF_BOUNDS"


@pytest.mark.parametrize("order", range(4))
@pytest.mark.parametrize(
    "kernel", [name for name in (*RACES, *BOUNDS, "never_written") if name != "device_memory"]
)
def test_its_sound_twin_runs(library: ShaderLibrary, kernel: str, order: int) -> None:
    run(library, f"{kernel}_sound", order)


def test_bounds_are_those_of_the_bound_range(library: ShaderLibrary) -> None:
    whole = np.ones(256, np.float32)
    with pytest.raises(ShaderFault, match="outside of all bound memory"):
        library.run("overrun_sound", whole[:100], launch=Launch(threads=(64,)))


def test_a_message_names_both_sides(library: ShaderLibrary) -> None:
    with pytest.raises(ShaderFault) as caught:
        run(library, "wrong_flags", 0)
    first, second = place("device_memory"), place("wrong_flags")
    assert "race in device memory: read by thread" in str(caught.value)
    assert second in str(caught.value)
    assert "unordered with a write at" in str(caught.value)
    assert first not in str(caught.value)
