// The gated delta net: fused projections taken apart, convolution, decay, and the recurrence for single tokens and for
// chunks of a prompt.
#include "common.h"
#include "gated_delta_net_chunk.h"
#include "gated_delta_net_step.h"
#include "mixer_tiles.h"
#include "params.h"
#include "weight_vector.h"

// One thread per value of a token's qkvz, then of its ba.
kernel void gated_delta_net_split(device const float* qkvz [[buffer(0)]], device const float* ba [[buffer(1)]],
                                  device float* qkv [[buffer(2)]], device float* z [[buffer(3)]],
                                  device float* b [[buffer(4)]], device float* a [[buffer(5)]],
                                  constant GatedDeltaNetSplitParams& params [[buffer(6)]],
                                  uint2 thread_position [[thread_position_in_grid]]) {
  const uint ratio = params.n_value_heads / params.n_key_heads, values = ratio * params.value_dim;
  const uint key_dim = params.key_dim, key_width = params.n_key_heads * key_dim;
  const uint value_width = params.n_key_heads * values, head_width = 2 * key_dim + 2 * values;
  const uint fused_width = 2 * (key_width + value_width), n_value_heads = params.n_value_heads;
  const uint i = thread_position.x;
  const ulong token = thread_position.y;
  if (i < fused_width) {
    const uint head = i / head_width, part = i % head_width;
    const float value = qkvz[token * fused_width + i];
    device float* out = qkv + token * (2 * key_width + value_width);
    if (part < key_dim) {
      out[head * key_dim + part] = value;
    } else if (part < 2 * key_dim) {
      out[key_width + head * key_dim + part - key_dim] = value;
    } else if (part < 2 * key_dim + values) {
      out[2 * key_width + head * values + part - 2 * key_dim] = value;
    } else {
      z[token * value_width + head * values + part - 2 * key_dim - values] = value;
    }
  } else if (i - fused_width < 2 * n_value_heads) {
    const uint j = i - fused_width, head = j / (2 * ratio), part = j % (2 * ratio);
    const float value = ba[token * 2 * n_value_heads + j];
    device float* out = part < ratio ? b : a;
    out[token * n_value_heads + head * ratio + part % ratio] = value;
  }
}

// Row `row` of the state's rows followed by x, at one channel.
inline float convolution_input(device const float* x, device const float* state, uint channels, uint history, uint row,
                               uint channel) {
  return row < history ? state[ulong(row) * channels + channel] : x[ulong(row - history) * channels + channel];
}

// One thread per channel and CONVOLUTION_TOKENS tokens, or as many as the state has rows. Only the first tokens' thread
// reads the state, and writes it when it is done.
kernel void gated_delta_net_conv(device const float* x [[buffer(0)]], device const uchar* weight [[buffer(1)]],
                                 device float* state [[buffer(2)]], device float* out [[buffer(3)]],
                                 constant GatedDeltaNetConvParams& params [[buffer(4)]],
                                 constant Step& step [[buffer(5)]], uint2 thread_position [[thread_position_in_grid]]) {
  const uint channels = params.channels, channel = thread_position.x, history = params.kernel_size - 1;
  if (channel >= channels) return;
  const uint n_tokens = max(uint(CONVOLUTION_TOKENS), history), first = thread_position.y * n_tokens;
  const uint end = min(first + n_tokens, step.n_tokens);
  if (history <= 3) {
    // The oldest taps of a shorter kernel are zero.
    float taps[4], window[4];
    for (uint j = 0; j < 4; ++j) {
      const bool exists = j + history >= 3;
      const uint tap = exists ? j + history - 3 : 0;
      taps[j] = exists ? vector_element(weight, weight_dtype, channel * params.kernel_size + tap) : 0.0f;
      window[j] = exists && j < 3 ? convolution_input(x, state, channels, history, first + tap, channel) : 0.0f;
    }
    for (uint t = first; t < end; ++t) {
      window[3] = x[ulong(t) * channels + channel];
      float sum = 0.0f;
      for (uint j = 0; j < 4; ++j) sum = fma(taps[j], window[j], sum);
      out[ulong(t) * channels + channel] = silu(sum);
      for (uint j = 0; j < 3; ++j) window[j] = window[j + 1];
    }
  } else {
    for (uint t = first; t < end; ++t) {
      float sum = 0.0f;
      for (uint j = 0; j <= history; ++j) {
        const float tap = vector_element(weight, weight_dtype, channel * params.kernel_size + j);
        sum = fma(tap, convolution_input(x, state, channels, history, t + j, channel), sum);
      }
      out[ulong(t) * channels + channel] = silu(sum);
    }
  }
  // Ascending, so that rows are read before they are overwritten.
  for (uint row = 0; first == 0 && row < history; ++row) {
    state[ulong(row) * channels + channel] =
        convolution_input(x, state, channels, history, row + step.n_tokens, channel);
  }
}

// ln(1 + e^x) without overflow and without losing small results.
inline float softplus(float x) {
  const float u = precise::exp(-abs(x)), v = 1.0f + u;
  const float log1p = v == 1.0f ? u : precise::log(v) * (u / (v - 1.0f));
  return max(x, 0.0f) + log1p;
}

// One thread per value head of a token.
kernel void gated_delta_net_decay(device const float* a [[buffer(0)]], device const float* b [[buffer(1)]],
                                  device const uchar* a_log [[buffer(2)]], device const uchar* dt_bias [[buffer(3)]],
                                  device float* decay [[buffer(4)]], device float* beta [[buffer(5)]],
                                  constant GatedDeltaNetDecayParams& params [[buffer(6)]],
                                  constant Step& step [[buffer(7)]], uint thread_position [[thread_position_in_grid]]) {
  const uint n_heads = params.n_value_heads, i = thread_position, head = i % n_heads;
  if (i >= step.n_tokens * n_heads) return;
  const float rate = precise::exp(vector_element(a_log, a_log_dtype, head));
  decay[i] = precise::exp(-rate * softplus(a[i] + vector_element(dt_bias, dt_bias_dtype, head)));
  beta[i] = sigmoid(b[i]);
}

static_assert(DELTA_SIMDGROUPS * 32 == 256 && CHUNK_THREADS == 256, "as the kernels' attributes say");

// The recurrence token by token. The name says up to which key_dim; gated_delta_net_decode_any takes rows at any
// address.

[[max_total_threads_per_threadgroup(256)]] kernel void gated_delta_net_decode_64(
    device const float* qkv [[buffer(0)]], device const float* decay [[buffer(1)]],
    device const float* beta [[buffer(2)]], device float* state [[buffer(3)]], device float* out [[buffer(4)]],
    constant GatedDeltaNetParams& params [[buffer(5)]], constant Step& step [[buffer(6)]],
    uint2 group [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  const DeltaRule buffers = {qkv, decay, beta, state, out};
  step_delta_rule<2, true>(buffers, params, step, group, lane, simdgroup);
}

[[max_total_threads_per_threadgroup(256)]] kernel void gated_delta_net_decode_128(
    device const float* qkv [[buffer(0)]], device const float* decay [[buffer(1)]],
    device const float* beta [[buffer(2)]], device float* state [[buffer(3)]], device float* out [[buffer(4)]],
    constant GatedDeltaNetParams& params [[buffer(5)]], constant Step& step [[buffer(6)]],
    uint2 group [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  const DeltaRule buffers = {qkv, decay, beta, state, out};
  step_delta_rule<4, true>(buffers, params, step, group, lane, simdgroup);
}

[[max_total_threads_per_threadgroup(256)]] kernel void gated_delta_net_decode_256(
    device const float* qkv [[buffer(0)]], device const float* decay [[buffer(1)]],
    device const float* beta [[buffer(2)]], device float* state [[buffer(3)]], device float* out [[buffer(4)]],
    constant GatedDeltaNetParams& params [[buffer(5)]], constant Step& step [[buffer(6)]],
    uint2 group [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  const DeltaRule buffers = {qkv, decay, beta, state, out};
  step_delta_rule<8, true>(buffers, params, step, group, lane, simdgroup);
}

[[max_total_threads_per_threadgroup(256)]] kernel void gated_delta_net_decode_any(
    device const float* qkv [[buffer(0)]], device const float* decay [[buffer(1)]],
    device const float* beta [[buffer(2)]], device float* state [[buffer(3)]], device float* out [[buffer(4)]],
    constant GatedDeltaNetParams& params [[buffer(5)]], constant Step& step [[buffer(6)]],
    uint2 group [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  const DeltaRule buffers = {qkv, decay, beta, state, out};
  step_delta_rule<8, false>(buffers, params, step, group, lane, simdgroup);
}

// The recurrence by chunks of tokens.

[[max_total_threads_per_threadgroup(256)]] kernel void gated_delta_net_prefill(
    device const float* qkv [[buffer(0)]], device const float* decay [[buffer(1)]],
    device const float* beta [[buffer(2)]], device float* state [[buffer(3)]], device float* out [[buffer(4)]],
    constant GatedDeltaNetParams& params [[buffer(5)]], constant Step& step [[buffer(6)]],
    uint2 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float4 vectors[CHUNK_SHARED_VECTORS];
  threadgroup float4 ratios[CHUNK_RATIO_VECTORS];
  threadgroup float decays[CHUNK];
  threadgroup float total_decays[CHUNK];
  threadgroup float betas[CHUNK];
  threadgroup float inverses[CHUNK_INVERSES];
  threadgroup float right_sides[CHUNK_RIGHT_SIDES];
  const DeltaRule buffers = {qkv, decay, beta, state, out};
  const ChunkShared shared = {vectors, ratios, decays, total_decays, betas, inverses, right_sides};
  run_chunks<true>(buffers, params, step, group, shared, thread_index, lane, simdgroup);
}

[[max_total_threads_per_threadgroup(256)]] kernel void gated_delta_net_prefill_any(
    device const float* qkv [[buffer(0)]], device const float* decay [[buffer(1)]],
    device const float* beta [[buffer(2)]], device float* state [[buffer(3)]], device float* out [[buffer(4)]],
    constant GatedDeltaNetParams& params [[buffer(5)]], constant Step& step [[buffer(6)]],
    uint2 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float4 vectors[CHUNK_SHARED_VECTORS];
  threadgroup float4 ratios[CHUNK_RATIO_VECTORS];
  threadgroup float decays[CHUNK];
  threadgroup float total_decays[CHUNK];
  threadgroup float betas[CHUNK];
  threadgroup float inverses[CHUNK_INVERSES];
  threadgroup float right_sides[CHUNK_RIGHT_SIDES];
  const DeltaRule buffers = {qkv, decay, beta, state, out};
  const ChunkShared shared = {vectors, ratios, decays, total_decays, betas, inverses, right_sides};
  run_chunks<false>(buffers, params, step, group, shared, thread_index, lane, simdgroup);
}
