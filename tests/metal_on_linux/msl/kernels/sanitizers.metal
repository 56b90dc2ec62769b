// Faults that a sanitizer ends the process for, and a sound kernel.
#include <metal_stdlib>
using namespace metal;

kernel void buffer_overrun(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  x[i + 1] = 2.0f;  // PLACE buffer_overrun
}
kernel void variable_overrun(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float first[64], second[64];
  threadgroup float* p = second;
  p[i + 1] = first[0];  // PLACE variable_overrun
}
kernel void dynamic_overrun(device float* x [[buffer(0)]], threadgroup float* s [[threadgroup(0)]],
                            uint i [[thread_index_in_threadgroup]]) {
  s[i + 1] = x[i];  // PLACE dynamic_overrun
}
kernel void array_overrun(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  float values[8] = {};
  values[i % 9] = x[i];  // PLACE array_overrun
  x[i] = values[i % 8];
}
kernel void wide_shift(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  x[i] = float(1u << (i + 1));  // PLACE wide_shift
}
kernel void misaligned(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  x[i] = reinterpret_cast<device const float4*>(x + i / 2)->x;  // PLACE misaligned
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
