// RMS norms of whole rows, and of the heads of the gated delta net with their output gate.
#include "common.h"
#include "mixer_tiles.h"
#include "params.h"
#include "weight_vector.h"

// One threadgroup per row.
kernel void rms_norm(device const float* x [[buffer(0)]], device const uchar* weight [[buffer(1)]],
                     device float* out [[buffer(2)]], constant RmsNormParams& params [[buffer(3)]],
                     uint row [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
                     uint lane [[thread_index_in_simdgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float sums[ROW_NORM_THREADS / 32];
  const ulong first = ulong(row) * params.width;
  float sum = 0.0f;
  for (uint i = thread_index; i < params.width; i += ROW_NORM_THREADS) {
    const float value = x[first + i];
    sum = fma(value, value, sum);
  }
  sum = simd_sum(sum);
  if (lane == 0) sums[simdgroup] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float total = 0.0f;
  for (uint i = 0; i < ROW_NORM_THREADS / 32; ++i) total += sums[i];
  const float factor = precise::rsqrt(total / float(params.width) + params.epsilon);
  for (uint i = thread_index; i < params.width; i += ROW_NORM_THREADS) {
    out[first + i] = x[first + i] * factor * vector_element(weight, weight_dtype, i);
  }
}

// One simdgroup per head.
kernel void gated_rms_norm(device const float* x [[buffer(0)]], device const float* z [[buffer(1)]],
                           device const uchar* weight [[buffer(2)]], device float* out [[buffer(3)]],
                           constant GatedRmsNormParams& params [[buffer(4)]],
                           uint2 group [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
                           uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  const uint head = group.x * HEAD_SIMDGROUPS + simdgroup;
  if (head >= params.n_heads) return;
  const ulong first = (ulong(group.y) * params.n_heads + head) * params.width;
  float sum = 0.0f;
  for (uint i = lane; i < params.width; i += 32) {
    const float value = x[first + i];
    sum = fma(value, value, sum);
  }
  const float factor = precise::rsqrt(simd_sum(sum) / float(params.width) + params.epsilon);
  for (uint i = lane; i < params.width; i += 32) {
    const float normed = x[first + i] * factor * vector_element(weight, weight_dtype, i);
    out[first + i] = normed * silu(z[first + i]);
  }
}
