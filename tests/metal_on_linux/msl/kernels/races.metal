// One fault of memory order or bounds per kernel, with a sound twin.
#include <metal_stdlib>
using namespace metal;

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
  x[i] = 1.0f;  // PLACE written
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
kernel void overrun_sound(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) { x[i + 64] = 0.0f; }
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
