// Attention of single tokens: threadgroups share the keys of a token by splits, and their simdgroups those of a split.
// Softmax is online (Milakov and Gimelshein, Online normalizer calculation for softmax): sums are relative to the
// largest score so far.
#pragma once
#include "attention_buffers.h"
#include "mixer_tiles.h"

struct DecodeBuffers {
  device const float* q;
  device const float* keys;
  device const float* values;
  device float* partials;
};

// A simdgroup's share of the keys of a split, for up to DECODE_HEADS heads of a key/value head. `lanes` lanes share a
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

// What one threadgroup works on: heads of a key/value head, and the keys of a split.
struct DecodeShare {
  uint kv_head;
  uint n_heads;
  uint first_key;
  uint end_key;
};

// Adds the keys first_key .. of a tile, those that exist; there must be one.
template <uint lanes, bool aligned>
inline void attend_keys(DecodeBuffers buffers, constant AttentionDecodeParams& params, DecodeShare share,
                        DecodeShared shared, uint first_key, uint lane, thread DecodeState& state) {
  const uint n = params.head_dim, group = lane / lanes, column = lane % lanes;
  float4 keys[DECODE_KEYS][2], values[DECODE_KEYS][2];
#pragma unroll
  for (uint i = 0; i < DECODE_KEYS; ++i) {
    const uint key = min(first_key + i * (32 / lanes) + group, share.end_key - 1);
    const ulong row = (ulong(key) * params.n_kv_heads + share.kv_head) * n;
#pragma unroll
    for (uint v = 0; v < 2; ++v) {
      keys[i][v] = load_four<aligned>(buffers.keys + row, 4 * (column + v * lanes), n);
      values[i][v] = load_four<aligned>(buffers.values + row, 4 * (column + v * lanes), n);
    }
  }
#pragma unroll
  for (uint h = 0; h < DECODE_HEADS; ++h) {
    if (h >= share.n_heads) break;
    const float4 query[2] = {shared.queries[h * 2 * lanes + column], shared.queries[(h * 2 + 1) * lanes + column]};
    float weights[DECODE_KEYS];
    float largest = state.largest[h];
#pragma unroll
    for (uint i = 0; i < DECODE_KEYS; ++i) {
      const float score = lane_sum(dot(query[0], keys[i][0]) + dot(query[1], keys[i][1]), lanes);
      weights[i] = first_key + i * (32 / lanes) + group < share.end_key ? score : -INFINITY;
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

// What the simdgroups have of one head, together.
struct MergedHead {
  float largest;
  float sum;
};

inline MergedHead merged_head(DecodeShared shared) {
  MergedHead head = {lowest_score, 0.0f};
  for (uint s = 0; s < DECODE_SIMDGROUPS; ++s) head.largest = max(head.largest, shared.largest[s]);
  for (uint s = 0; s < DECODE_SIMDGROUPS; ++s) {
    head.sum = fma(shared.sums[s], precise::exp(shared.largest[s] - head.largest), head.sum);
  }
  return head;
}

inline float merged_value(DecodeShared shared, MergedHead head, uint n_vectors, uint index) {
  float value = 0.0f;
  for (uint s = 0; s < DECODE_SIMDGROUPS; ++s) {
    const float factor = precise::exp(shared.largest[s] - head.largest);
    value = fma(shared.values[s * n_vectors + index / 4][index % 4], factor, value);
  }
  return value;
}

// One threadgroup: some query heads of one key/value head and one token, and one split of its keys.
template <uint lanes, bool aligned>
inline void attend_split(DecodeBuffers buffers, constant AttentionDecodeParams& params, constant Step& step,
                         uint3 group, DecodeShared shared, uint lane, uint simdgroup) {
  const uint n = params.head_dim, ratio = params.n_heads / params.n_kv_heads, n_groups = decode_head_groups(ratio);
  const uint first_head = group.x % n_groups * DECODE_HEADS, token = group.y, split = group.z;
  const uint n_keys = step.position + token + 1, split_keys = keys_per_split(n_keys, params.n_splits);
  DecodeShare share;
  share.kv_head = group.x / n_groups;
  share.n_heads = min(ratio - first_head, uint(DECODE_HEADS));
  share.first_key = split * split_keys;
  share.end_key = min(n_keys, share.first_key + split_keys);
  if (share.first_key >= n_keys) return;

  const uint index = simdgroup * 32 + lane, n_threads = DECODE_SIMDGROUPS * 32, n_vectors = 2 * lanes;
  device const float* queries = buffers.q + (ulong(token) * params.n_heads + share.kv_head * ratio + first_head) * n;
  for (uint i = index; i < DECODE_HEADS * n_vectors; i += n_threads) {
    const uint h = i / n_vectors;
    const float4 values = h < share.n_heads ? load_four<aligned>(queries + h * n, i % n_vectors * 4, n) : float4(0.0f);
    shared.queries[i] = values * params.scale;
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
  for (uint key = share.first_key + simdgroup * tile; key < share.end_key; key += DECODE_SIMDGROUPS * tile) {
    attend_keys<lanes, aligned>(buffers, params, share, shared, key, lane, state);
  }
  const ulong kv_heads_before = ulong(token) * params.n_kv_heads + share.kv_head;
  device float* partial =
      buffers.partials + ((kv_heads_before * params.n_splits + split) * ratio + first_head) * (2 + n);
#pragma unroll
  for (uint h = 0; h < DECODE_HEADS; ++h) {
    if (h >= share.n_heads) break;
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
    const MergedHead head = merged_head(shared);
    if (index == 0) {
      partial[h * (2 + n)] = head.largest;
      partial[h * (2 + n) + 1] = head.sum;
    }
    for (uint i = index; i < n; i += n_threads) {
      partial[h * (2 + n) + 2 + i] = merged_value(shared, head, n_vectors, i);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}

struct MergeBuffers {
  device const float* partials;
  device const float* q_proj;
  device float* out;
};

// Value i of a head over all of its splits, whose states are `stride` floats apart. Lane s of a simdgroup knows what
// split s of 32 counts for; all lanes must take part.
inline float merged_split_value(device const float* states, uint stride, uint n_splits, uint i, uint lane) {
  float largest = lowest_score, sum = 0.0f, value = 0.0f;
  for (uint first = 0; first < n_splits; first += 32) {
    const bool exists = first + lane < n_splits;
    device const float* state = states + (exists ? first + lane : 0) * stride;
    const float own_largest = exists ? state[0] : lowest_score, own_sum = exists ? state[1] : 0.0f;
    const float next = max(largest, simd_max(own_largest));
    const float rescale = precise::exp(largest - next), factor = precise::exp(own_largest - next);
    largest = next;
    sum = fma(sum, rescale, lane_sum(own_sum * factor, 32));
    value *= rescale;
    const uint end = min(n_splits - first, 32u);
    for (uint s = 0; s < end; s += MERGE_LOADS) {
      float values[MERGE_LOADS];
#pragma unroll
      for (uint j = 0; j < MERGE_LOADS; ++j) {
        values[j] = s + j < end ? states[(first + s + j) * stride + 2 + i] : 0.0f;
      }
#pragma unroll
      for (uint j = 0; j < MERGE_LOADS; ++j) value = fma(values[j], simd_shuffle(factor, ushort(s + j)), value);
    }
  }
  return value / sum;
}

// One threadgroup: a head of a token.
inline void merge_splits(MergeBuffers buffers, constant AttentionMergeParams& params, constant Step& step, uint head,
                         uint token, uint lane, uint simdgroup) {
  const uint n = params.head_dim, ratio = params.n_heads / params.n_kv_heads;
  const uint n_splits = used_splits(step.position + token + 1, params.n_splits), stride = ratio * (2 + n);
  const ulong first = (ulong(token) * params.n_kv_heads + head / ratio) * params.n_splits * ratio + head % ratio;
  const ulong row = ulong(token) * params.n_heads + head;
  for (uint begin = simdgroup * 32; begin < n; begin += MERGE_THREADS) {
    const uint i = min(begin + lane, n - 1);
    const float value = merged_split_value(buffers.partials + first * (2 + n), stride, n_splits, i, lane);
    if (begin + lane >= n) continue;
    buffers.out[row * n + i] = gated_output(value, buffers.q_proj + row * params.q_head_stride, n, i);
  }
}
