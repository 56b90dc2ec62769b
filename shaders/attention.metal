// Norm and rotary embedding of queries and keys, and softmax attention over the key/value cache.
#include "attention_decode.h"
#include "attention_prefill.h"
#include "common.h"
#include "mixer_tiles.h"
#include "params.h"
#include "weight_vector.h"

// RMS norm of n values, then rotation of the pairs (i, i + n_pairs) by angle * frequencies[i]. All lanes must take
// part.
inline void norm_and_rotate(device const float* x, device const uchar* weight, constant AttentionPrepareParams& params,
                            device const float* frequencies, float position, device float* out, uint lane) {
  const uint n = params.head_dim, n_pairs = params.rope_dim / 2;
  float sum = 0.0f;
  for (uint i = lane; i < n; i += 32) sum = fma(x[i], x[i], sum);
  const float factor = precise::rsqrt(simd_sum(sum) / float(n) + params.epsilon);
  for (uint i = lane; i < n_pairs; i += 32) {
    const float angle = position * frequencies[i];
    const float cosine = precise::cos(angle), sine = precise::sin(angle);
    const float a = x[i] * factor * vector_element(weight, norm_dtype, i);
    const float b = x[i + n_pairs] * factor * vector_element(weight, norm_dtype, i + n_pairs);
    out[i] = a * cosine - b * sine;
    out[i + n_pairs] = b * cosine + a * sine;
  }
  for (uint i = 2 * n_pairs + lane; i < n; i += 32) out[i] = x[i] * factor * vector_element(weight, norm_dtype, i);
}

// One simdgroup per head of q, then of k and v.
kernel void attention_prepare(device const float* q_proj [[buffer(0)]], device const float* k_proj [[buffer(1)]],
                              device const float* v_proj [[buffer(2)]], device const uchar* q_norm [[buffer(3)]],
                              device const uchar* k_norm [[buffer(4)]],
                              device const float* rope_frequencies [[buffer(5)]], device float* q [[buffer(6)]],
                              device float* k_cache [[buffer(7)]], device float* v_cache [[buffer(8)]],
                              constant AttentionPrepareParams& params [[buffer(9)]], constant Step& step [[buffer(10)]],
                              uint2 group [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
                              uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  const uint head = group.x * HEAD_SIMDGROUPS + simdgroup, token = group.y, n = params.head_dim;
  if (head >= params.n_heads + params.n_kv_heads) return;
  const float position = float(step.position + token);
  if (head < params.n_heads) {
    const ulong index = ulong(token) * params.n_heads + head;
    norm_and_rotate(q_proj + index * params.q_head_stride, q_norm, params, rope_frequencies, position, q + index * n,
                    lane);
    return;
  }
  const uint kv_head = head - params.n_heads;
  const ulong source = (ulong(token) * params.n_kv_heads + kv_head) * n;
  const ulong cached = (ulong(step.position + token) * params.n_kv_heads + kv_head) * n;
  norm_and_rotate(k_proj + source, k_norm, params, rope_frequencies, position, k_cache + cached, lane);
  for (uint i = lane; i < n; i += 32) v_cache[cached + i] = v_proj[source + i];
}

// Threadgroup memory, in vectors.
enum AttentionShared : uint {
  DECODE_QUERY_VECTORS = DECODE_HEADS * 256 / 4,
  DECODE_VALUE_VECTORS_64 = DECODE_SIMDGROUPS * 64 / 4,
  DECODE_VALUE_VECTORS_128 = DECODE_SIMDGROUPS * 128 / 4,
  DECODE_VALUE_VECTORS_256 = DECODE_SIMDGROUPS * 256 / 4,
};

static_assert(DECODE_SIMDGROUPS * 32 == 256 && PREFILL_THREADS == 256, "as the kernels' attributes say");

// Attention of a decode step: one threadgroup per token, split of its keys, and DECODE_HEADS heads. The name says up to
// which head_dim; attention_decode_any takes rows at any address.

[[max_total_threads_per_threadgroup(256)]] kernel void attention_decode_64(
    device const float* q [[buffer(0)]], device const float* k_cache [[buffer(1)]],
    device const float* v_cache [[buffer(2)]], device float* partials [[buffer(3)]],
    constant AttentionDecodeParams& params [[buffer(4)]], constant Step& step [[buffer(5)]],
    uint3 group [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float4 queries[DECODE_QUERY_VECTORS];
  threadgroup float4 values[DECODE_VALUE_VECTORS_64];
  threadgroup float largest[DECODE_SIMDGROUPS];
  threadgroup float sums[DECODE_SIMDGROUPS];
  const DecodeBuffers buffers = {q, k_cache, v_cache, partials};
  const DecodeShared shared = {queries, values, largest, sums};
  attend_split<8, true>(buffers, params, step, group, shared, lane, simdgroup);
}

[[max_total_threads_per_threadgroup(256)]] kernel void attention_decode_128(
    device const float* q [[buffer(0)]], device const float* k_cache [[buffer(1)]],
    device const float* v_cache [[buffer(2)]], device float* partials [[buffer(3)]],
    constant AttentionDecodeParams& params [[buffer(4)]], constant Step& step [[buffer(5)]],
    uint3 group [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float4 queries[DECODE_QUERY_VECTORS];
  threadgroup float4 values[DECODE_VALUE_VECTORS_128];
  threadgroup float largest[DECODE_SIMDGROUPS];
  threadgroup float sums[DECODE_SIMDGROUPS];
  const DecodeBuffers buffers = {q, k_cache, v_cache, partials};
  const DecodeShared shared = {queries, values, largest, sums};
  attend_split<16, true>(buffers, params, step, group, shared, lane, simdgroup);
}

[[max_total_threads_per_threadgroup(256)]] kernel void attention_decode_256(
    device const float* q [[buffer(0)]], device const float* k_cache [[buffer(1)]],
    device const float* v_cache [[buffer(2)]], device float* partials [[buffer(3)]],
    constant AttentionDecodeParams& params [[buffer(4)]], constant Step& step [[buffer(5)]],
    uint3 group [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float4 queries[DECODE_QUERY_VECTORS];
  threadgroup float4 values[DECODE_VALUE_VECTORS_256];
  threadgroup float largest[DECODE_SIMDGROUPS];
  threadgroup float sums[DECODE_SIMDGROUPS];
  const DecodeBuffers buffers = {q, k_cache, v_cache, partials};
  const DecodeShared shared = {queries, values, largest, sums};
  attend_split<32, true>(buffers, params, step, group, shared, lane, simdgroup);
}

[[max_total_threads_per_threadgroup(256)]] kernel void attention_decode_any(
    device const float* q [[buffer(0)]], device const float* k_cache [[buffer(1)]],
    device const float* v_cache [[buffer(2)]], device float* partials [[buffer(3)]],
    constant AttentionDecodeParams& params [[buffer(4)]], constant Step& step [[buffer(5)]],
    uint3 group [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float4 queries[DECODE_QUERY_VECTORS];
  threadgroup float4 values[DECODE_VALUE_VECTORS_256];
  threadgroup float largest[DECODE_SIMDGROUPS];
  threadgroup float sums[DECODE_SIMDGROUPS];
  const DecodeBuffers buffers = {q, k_cache, v_cache, partials};
  const DecodeShared shared = {queries, values, largest, sums};
  attend_split<32, false>(buffers, params, step, group, shared, lane, simdgroup);
}

// One threadgroup per head and token.
kernel void attention_merge(device const float* partials [[buffer(0)]], device const float* q_proj [[buffer(1)]],
                            device float* out [[buffer(2)]], constant AttentionMergeParams& params [[buffer(3)]],
                            constant Step& step [[buffer(4)]], uint2 group [[threadgroup_position_in_grid]],
                            uint lane [[thread_index_in_simdgroup]],
                            uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  merge_splits({partials, q_proj, out}, params, step, group.x, group.y, lane, simdgroup);
}

// Attention of a prompt: one threadgroup per head and PREFILL_TILE positions.

[[max_total_threads_per_threadgroup(256)]] kernel void attention_prefill_64(
    device const float* q [[buffer(0)]], device const float* k_cache [[buffer(1)]],
    device const float* v_cache [[buffer(2)]], device const float* q_proj [[buffer(3)]],
    device float* out [[buffer(4)]], constant AttentionParams& params [[buffer(5)]], constant Step& step [[buffer(6)]],
    uint2 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float4 shared[PREFILL_SHARED_VECTORS];
  const Attention buffers = {q, k_cache, v_cache, q_proj, out};
  attend_prompt<1, true>(buffers, params, step, group, shared, thread_index);
}

[[max_total_threads_per_threadgroup(256)]] kernel void attention_prefill_128(
    device const float* q [[buffer(0)]], device const float* k_cache [[buffer(1)]],
    device const float* v_cache [[buffer(2)]], device const float* q_proj [[buffer(3)]],
    device float* out [[buffer(4)]], constant AttentionParams& params [[buffer(5)]], constant Step& step [[buffer(6)]],
    uint2 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float4 shared[PREFILL_SHARED_VECTORS];
  const Attention buffers = {q, k_cache, v_cache, q_proj, out};
  attend_prompt<2, true>(buffers, params, step, group, shared, thread_index);
}

[[max_total_threads_per_threadgroup(256)]] kernel void attention_prefill_256(
    device const float* q [[buffer(0)]], device const float* k_cache [[buffer(1)]],
    device const float* v_cache [[buffer(2)]], device const float* q_proj [[buffer(3)]],
    device float* out [[buffer(4)]], constant AttentionParams& params [[buffer(5)]], constant Step& step [[buffer(6)]],
    uint2 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float4 shared[PREFILL_SHARED_VECTORS];
  const Attention buffers = {q, k_cache, v_cache, q_proj, out};
  attend_prompt<4, true>(buffers, params, step, group, shared, thread_index);
}

[[max_total_threads_per_threadgroup(256)]] kernel void attention_prefill_any(
    device const float* q [[buffer(0)]], device const float* k_cache [[buffer(1)]],
    device const float* v_cache [[buffer(2)]], device const float* q_proj [[buffer(3)]],
    device float* out [[buffer(4)]], constant AttentionParams& params [[buffer(5)]], constant Step& step [[buffer(6)]],
    uint2 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float4 shared[PREFILL_SHARED_VECTORS];
  const Attention buffers = {q, k_cache, v_cache, q_proj, out};
  attend_prompt<4, false>(buffers, params, step, group, shared, thread_index);
}
