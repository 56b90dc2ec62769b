// How kernels are run: barriers, limits, bindings, constants, positions.
#include <metal_stdlib>
using namespace metal;

constant uint scale [[function_constant(0)]];
constant bool negated [[function_constant(1)]];
constant float factor = negated ? -float(scale) : float(scale);

kernel void scaled(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) { x[i] *= factor; }
kernel void early_return(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  if (i >= 40) return;
  threadgroup_barrier(mem_flags::mem_threadgroup);  // PLACE early_return
  x[i] = 2.0f;
}
kernel void early_return_sound(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (i >= 40) return;
  x[i] = 2.0f;
}
kernel void two_barriers(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  if (i < 32) {
    threadgroup_barrier(mem_flags::mem_threadgroup);  // PLACE first_barrier
  } else {
    threadgroup_barrier(mem_flags::mem_threadgroup);  // PLACE second_barrier
  }
  x[i] = 2.0f;
}
kernel void divergent(device float* x [[buffer(0)]], constant uint& n [[buffer(1)]],
                      uint i [[thread_index_in_threadgroup]]) {
  if (i < n) x[i] = simd_sum(x[i]);  // PLACE divergent
}
kernel void partial_simdgroup(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  x[i] = simd_sum(x[i]);
}
kernel void unwritten(device float* x [[buffer(0)]], threadgroup float* dynamic [[threadgroup(0)]],
                      uint i [[thread_index_in_threadgroup]]) {
  threadgroup float fixed[64];
  x[i] = i < 32 ? fixed[i] : dynamic[i];
}
kernel void shared(device float* x [[buffer(0)]], threadgroup float* first [[threadgroup(0)]],
                   threadgroup float* second [[threadgroup(1)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float third[64], last;
  first[i] = second[i] = third[i] = x[i];
  if (i == 0) last = 100.0f;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  x[i] = first[63 - i] + second[63 - i] + third[63 - i] + last;
}
kernel void large(device float* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float s[8192];
  s[i] = 1.0f;
  x[i] = s[i];
}
kernel [[max_total_threads_per_threadgroup(64)]] void limited(device float* x [[buffer(0)]],
                                                              uint i [[thread_index_in_threadgroup]]) {
  x[i] = 3.0f;
}
kernel void positions(device ushort* out [[buffer(0)]], uint3 at [[thread_position_in_grid]],
                      ushort3 in [[thread_position_in_threadgroup]], uint3 group [[threadgroup_position_in_grid]],
                      ushort3 size [[threads_per_threadgroup]], uint3 groups [[threadgroups_per_grid]],
                      uint3 grid [[threads_per_grid]], uint index [[thread_index_in_threadgroup]],
                      ushort lane [[thread_index_in_simdgroup]], ushort simd [[simdgroup_index_in_threadgroup]],
                      ushort n_simd [[simdgroups_per_threadgroup]], ushort width [[threads_per_simdgroup]]) {
  device ushort* row = out + ((at.z * grid.y + at.y) * grid.x + at.x) * 12;
  row[0] = in.x, row[1] = in.y, row[2] = in.z;
  row[3] = ushort(group.x), row[4] = ushort(group.y), row[5] = ushort(groups.y);
  row[6] = size.y, row[7] = ushort(index), row[8] = lane, row[9] = simd, row[10] = n_simd, row[11] = width;
}
kernel void deep(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  float large[4096];
  for (uint j = 0; j < 4096; ++j) large[j] = x[i] + float(j);
  threadgroup_barrier(mem_flags::mem_none);
  float sum = 0.0f;
  for (uint j = 0; j < 4096; ++j) sum += large[(j * 7 + i) % 4096];
  x[i] = sum;
}
