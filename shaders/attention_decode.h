// Attention of single tokens: the simdgroups of a threadgroup share the keys of a token. Softmax is online (Milakov and
// Gimelshein, Online normalizer calculation for softmax): sums are relative to the largest score so far.
#pragma once
#include "attention_buffers.h"
#include "mixer_tiles.h"

// A simdgroup's share of the keys of one token, for up to DECODE_HEADS heads of a key/value head. `lanes` lanes share a
// key: each holds values 4 * lane .. and 4 * (lane + lanes) .. of it.
struct DecodeState {
  float largest[DECODE_HEADS];
  float sum[DECODE_HEADS];
  float4 values[DECODE_HEADS][2];
};

// Threadgroup memory of a decode step.
struct DecodeShared {
  threadgroup float4* queries;  // [DECODE_HEADS, 2 * lanes], times the scale
  threadgroup float4* values;   // [DECODE_SIMDGROUPS, 2 * lanes] of one head
  threadgroup float* largest;   // [DECODE_SIMDGROUPS]
  threadgroup float* sums;      // [DECODE_SIMDGROUPS]
};

// The heads of a threadgroup.
struct DecodeHeads {
  uint kv_head;
  uint count;
  uint n_keys;
  ulong first;  // of the first query head, counting those of all tokens
};

// Adds the keys first_key .. of a tile, those that exist; there must be one.
template <uint lanes, bool aligned>
inline void attend_keys(Attention buffers, constant AttentionParams& params, DecodeHeads heads, DecodeShared shared,
                        uint first_key, uint lane, thread DecodeState& state) {
  const uint n = params.head_dim, group = lane / lanes, column = lane % lanes;
  float4 keys[DECODE_KEYS][2], values[DECODE_KEYS][2];
#pragma unroll
  for (uint i = 0; i < DECODE_KEYS; ++i) {
    const uint key = min(first_key + i * (32 / lanes) + group, heads.n_keys - 1);
    const ulong row = (ulong(key) * params.n_kv_heads + heads.kv_head) * n;
#pragma unroll
    for (uint v = 0; v < 2; ++v) {
      keys[i][v] = load_four<aligned>(buffers.keys + row, 4 * (column + v * lanes), n);
      values[i][v] = load_four<aligned>(buffers.values + row, 4 * (column + v * lanes), n);
    }
  }
#pragma unroll
  for (uint h = 0; h < DECODE_HEADS; ++h) {
    if (h >= heads.count) break;
    const float4 query[2] = {shared.queries[h * 2 * lanes + column], shared.queries[(h * 2 + 1) * lanes + column]};
    float weights[DECODE_KEYS];
    float largest = state.largest[h];
#pragma unroll
    for (uint i = 0; i < DECODE_KEYS; ++i) {
      const float score = lane_sum(dot(query[0], keys[i][0]) + dot(query[1], keys[i][1]), lanes);
      weights[i] = first_key + i * (32 / lanes) + group < heads.n_keys ? score : -INFINITY;
      largest = max(largest, weights[i]);
    }
    const float rescale = precise::exp(state.largest[h] - largest);
    state.largest[h] = largest;
    state.sum[h] *= rescale;
    state.values[h][0] *= rescale;
    state.values[h][1] *= rescale;
#pragma unroll
    for (uint i = 0; i < DECODE_KEYS; ++i) {
      const float weight = precise::exp(weights[i] - largest);
      state.sum[h] += weight;
      state.values[h][0] = fma(float4(weight), values[i][0], state.values[h][0]);
      state.values[h][1] = fma(float4(weight), values[i][1], state.values[h][1]);
    }
  }
}

inline float4 shuffled(float4 value, uint distance) {
  return float4(simd_shuffle_xor(value.x, ushort(distance)), simd_shuffle_xor(value.y, ushort(distance)),
                simd_shuffle_xor(value.z, ushort(distance)), simd_shuffle_xor(value.w, ushort(distance)));
}

// Adds up what the groups of lanes of a simdgroup have; all lanes then hold it.
template <uint lanes>
inline void merge_key_groups(thread DecodeState& state, uint h) {
  float largest = state.largest[h];
  for (uint distance = lanes; distance < 32; distance *= 2) {
    largest = max(largest, simd_shuffle_xor(largest, ushort(distance)));
  }
  const float factor = precise::exp(state.largest[h] - largest);
  state.largest[h] = largest;
  state.sum[h] *= factor;
  state.values[h][0] *= factor;
  state.values[h][1] *= factor;
  for (uint distance = lanes; distance < 32; distance *= 2) {
    state.sum[h] += simd_shuffle_xor(state.sum[h], ushort(distance));
    state.values[h][0] += shuffled(state.values[h][0], distance);
    state.values[h][1] += shuffled(state.values[h][1], distance);
  }
}

// Value `index` of a head over all simdgroups.
inline float merged_value(DecodeShared shared, uint n_vectors, uint index) {
  float largest = lowest_score, sum = 0.0f, value = 0.0f;
  for (uint s = 0; s < DECODE_SIMDGROUPS; ++s) largest = max(largest, shared.largest[s]);
  for (uint s = 0; s < DECODE_SIMDGROUPS; ++s) {
    const float factor = precise::exp(shared.largest[s] - largest);
    sum = fma(shared.sums[s], factor, sum);
    value = fma(shared.values[s * n_vectors + index / 4][index % 4], factor, value);
  }
  return value / sum;
}

// One threadgroup: some query heads of one key/value head and one token.
template <uint lanes, bool aligned>
inline void attend_token(Attention buffers, constant AttentionParams& params, constant Step& step, uint2 group,
                         DecodeShared shared, uint lane, uint simdgroup) {
  const uint n = params.head_dim, ratio = params.n_heads / params.n_kv_heads;
  const uint most_heads = decode_heads(params.n_heads, ratio), n_groups = (ratio + most_heads - 1) / most_heads;
  const uint first_head = group.x % n_groups * most_heads;
  DecodeHeads heads;
  heads.kv_head = group.x / n_groups;
  heads.count = min(ratio - first_head, most_heads);
  heads.n_keys = step.position + group.y + 1;
  heads.first = ulong(group.y) * params.n_heads + heads.kv_head * ratio + first_head;

  const uint index = simdgroup * 32 + lane, n_vectors = 2 * lanes;
  if (index < DECODE_HEADS * n_vectors) {
    const uint h = index / n_vectors;
    device const float* query = buffers.q + (heads.first + h) * n;
    const float4 values = h < heads.count ? load_four<aligned>(query, index % n_vectors * 4, n) : float4(0.0f);
    shared.queries[index] = values * params.scale;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  DecodeState state;
#pragma unroll
  for (uint h = 0; h < DECODE_HEADS; ++h) {
    state.largest[h] = lowest_score;
    state.sum[h] = 0.0f;
    state.values[h][0] = state.values[h][1] = float4(0.0f);
  }
  const uint tile = DECODE_KEYS * (32 / lanes);
  for (uint key = simdgroup * tile; key < heads.n_keys; key += DECODE_SIMDGROUPS * tile) {
    attend_keys<lanes, aligned>(buffers, params, heads, shared, key, lane, state);
  }
#pragma unroll
  for (uint h = 0; h < DECODE_HEADS; ++h) {
    if (h >= heads.count) break;
    merge_key_groups<lanes>(state, h);
    if (lane < lanes) {
      shared.values[simdgroup * n_vectors + lane] = state.values[h][0];
      shared.values[simdgroup * n_vectors + lanes + lane] = state.values[h][1];
    }
    if (lane == 0) {
      shared.largest[simdgroup] = state.largest[h];
      shared.sums[simdgroup] = state.sum[h];
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (index < n) store_output(buffers, params, heads.first + h, index, merged_value(shared, n_vectors, index));
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}
