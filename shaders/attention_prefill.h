// Attention of the tokens of a prompt: tiles of queries against tiles of keys, both at multiples of PREFILL_TILE
// positions, so that a token's sums do not depend on the tokens that come along. Softmax is online.
#pragma once
#include "attention_buffers.h"
#include "mixer_tiles.h"

enum PrefillShares : uint {
  PREFILL_COLS = 16,                             // threads that share four queries; keys col, col + PREFILL_COLS ..
  PREFILL_DIM_VECTORS = PREFILL_SCORE_DIMS / 4,  // of a row of queries or keys, staged at a time
  PREFILL_ROW_STRIDE = PREFILL_DIM_VECTORS + 1,  // odd, so that neighbouring rows lie in different banks
  PREFILL_WEIGHT_STRIDE = PREFILL_TILE / 4 + 1,
  PREFILL_WEIGHT_VECTORS = PREFILL_TILE * PREFILL_WEIGHT_STRIDE,
  PREFILL_VALUE_VECTORS = PREFILL_VALUE_KEYS * PREFILL_VALUE_DIMS / 4,
  PREFILL_SHARED_VECTORS = PREFILL_WEIGHT_VECTORS + PREFILL_VALUE_VECTORS,
  PREFILL_ROW_LOADS = PREFILL_TILE * PREFILL_DIM_VECTORS / PREFILL_THREADS,  // of a thread, of queries and of keys
  PREFILL_VALUE_LOADS = PREFILL_VALUE_VECTORS / PREFILL_THREADS,
};

// The tile of one threadgroup, and a thread's share of it. Threadgroup memory first holds queries, then keys
// [PREFILL_TILE, PREFILL_ROW_STRIDE], and then weights [PREFILL_TILE keys, PREFILL_WEIGHT_STRIDE vectors of queries],
// behind which are values [PREFILL_VALUE_KEYS, PREFILL_COLS].
struct PrefillTile {
  threadgroup float4* shared;
  uint head;
  uint kv_head;
  uint first;  // position of the first query
  uint begin;  // positions that exist: queries from begin to end - 1, keys to end - 1
  uint end;
  uint thread_index;
  uint row;  // queries 4 * row ..
  uint col;  // values 4 * col .. of every block
};

// What a thread stages next.
struct PrefillRows {
  float4 queries[PREFILL_ROW_LOADS];
  float4 keys[PREFILL_ROW_LOADS];
};

// Columns d .. d + PREFILL_SCORE_DIMS - 1 of the queries and of the keys from first_key on.
template <bool aligned>
inline PrefillRows load_rows(Attention buffers, constant AttentionParams& params, PrefillTile tile, uint first_key,
                             uint d) {
  const uint n = params.head_dim, column = d + tile.thread_index % PREFILL_DIM_VECTORS * 4;
  PrefillRows rows;
#pragma unroll
  for (uint i = 0; i < PREFILL_ROW_LOADS; ++i) {
    const uint row = (tile.thread_index + i * PREFILL_THREADS) / PREFILL_DIM_VECTORS;
    const uint query = tile.first + row, key = first_key + row;
    const bool exists = query >= tile.begin && query < tile.end;
    const ulong q_row = exists ? ulong(query - tile.begin) * params.n_heads + tile.head : 0;
    const ulong k_row = ulong(key < tile.end ? key : 0) * params.n_kv_heads + tile.kv_head;
    rows.queries[i] = exists ? load_four<aligned>(buffers.q + q_row * n, column, n) : float4(0.0f);
    rows.keys[i] = key < tile.end ? load_four<aligned>(buffers.keys + k_row * n, column, n) : float4(0.0f);
  }
  return rows;
}

inline void stage_rows(PrefillTile tile, PrefillRows rows) {
  const uint column = tile.thread_index % PREFILL_DIM_VECTORS;
#pragma unroll
  for (uint i = 0; i < PREFILL_ROW_LOADS; ++i) {
    const uint row = (tile.thread_index + i * PREFILL_THREADS) / PREFILL_DIM_VECTORS;
    tile.shared[row * PREFILL_ROW_STRIDE + column] = rows.queries[i];
    tile.shared[(PREFILL_TILE + row) * PREFILL_ROW_STRIDE + column] = rows.keys[i];
  }
}

// scores[r][c] of query 4 * row + r with key col + c * PREFILL_COLS, scaled, causal.
template <bool aligned>
inline void score_tile(Attention buffers, constant AttentionParams& params, PrefillTile tile, uint first_key,
                       thread float4* scores) {
  threadgroup const float4* queries = tile.shared + 4 * tile.row * PREFILL_ROW_STRIDE;
  threadgroup const float4* keys = tile.shared + (PREFILL_TILE + tile.col) * PREFILL_ROW_STRIDE;
  PrefillRows rows = load_rows<aligned>(buffers, params, tile, first_key, 0);
#pragma unroll
  for (uint r = 0; r < 4; ++r) scores[r] = float4(0.0f);
  for (uint d = 0; d < params.head_dim; d += PREFILL_SCORE_DIMS) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    stage_rows(tile, rows);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const uint next = d + PREFILL_SCORE_DIMS;
    if (next < params.head_dim) rows = load_rows<aligned>(buffers, params, tile, first_key, next);
    for (uint i = 0; i < PREFILL_DIM_VECTORS; ++i) {
      float4 key[4];
#pragma unroll
      for (uint c = 0; c < 4; ++c) key[c] = keys[c * PREFILL_COLS * PREFILL_ROW_STRIDE + i];
#pragma unroll
      for (uint r = 0; r < 4; ++r) {
        const float4 query = queries[r * PREFILL_ROW_STRIDE + i];
#pragma unroll
        for (uint c = 0; c < 4; ++c) scores[r][c] = add_dot(query, key[c], scores[r][c]);
      }
    }
  }
#pragma unroll
  for (uint r = 0; r < 4; ++r) {
#pragma unroll
    for (uint c = 0; c < 4; ++c) {
      const bool visible = first_key + tile.col + c * PREFILL_COLS <= tile.first + 4 * tile.row + r;
      scores[r][c] = visible ? scores[r][c] * params.scale : -INFINITY;
    }
  }
}

// Largest over the PREFILL_COLS threads of a query.
inline float largest_of_row(float value) {
  for (uint distance = PREFILL_COLS / 2; distance > 0; distance /= 2) {
    value = max(value, simd_shuffle_xor(value, ushort(distance)));
  }
  return value;
}

// What a thread keeps from tile to tile: of queries 4 * row .., values 4 * col .. of every block.
template <uint blocks>
struct PrefillState {
  float largest[4];
  float sum[4];
  float4 values[blocks][4];
};

// Weights of the keys from their scores, into threadgroup memory.
template <uint blocks>
inline void weigh_keys(PrefillTile tile, thread float4* scores, thread PrefillState<blocks>& state) {
#pragma unroll
  for (uint r = 0; r < 4; ++r) {
    const float4 score = scores[r];
    const float largest = max(state.largest[r], largest_of_row(max(max(score.x, score.y), max(score.z, score.w))));
    const float rescale = precise::exp(state.largest[r] - largest);
    const float4 weights = precise::exp(score - largest);
    const float sum = lane_sum((weights.x + weights.y) + (weights.z + weights.w), PREFILL_COLS);
    state.largest[r] = largest;
    state.sum[r] = fma(state.sum[r], rescale, sum);
    scores[r] = weights;
#pragma unroll
    for (uint b = 0; b < blocks; ++b) state.values[b][r] *= rescale;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll
  for (uint c = 0; c < 4; ++c) {
    tile.shared[(tile.col + c * PREFILL_COLS) * PREFILL_WEIGHT_STRIDE + tile.row] =
        float4(scores[0][c], scores[1][c], scores[2][c], scores[3][c]);
  }
}

struct PrefillValues {
  float4 values[PREFILL_VALUE_LOADS];
};

// Values of the keys from `key` on, columns of one block.
template <bool aligned>
inline PrefillValues load_values(Attention buffers, constant AttentionParams& params, PrefillTile tile, uint first_key,
                                 uint block) {
  PrefillValues result;
#pragma unroll
  for (uint i = 0; i < PREFILL_VALUE_LOADS; ++i) {
    const uint key = first_key + tile.row + i * (PREFILL_THREADS / PREFILL_COLS);
    const ulong row = ulong(key < tile.end ? key : 0) * params.n_kv_heads + tile.kv_head;
    const uint d = block * PREFILL_VALUE_DIMS + 4 * tile.col;
    result.values[i] =
        key < tile.end ? load_four<aligned>(buffers.values + row * params.head_dim, d, params.head_dim) : float4(0.0f);
  }
  return result;
}

template <uint blocks, bool aligned>
inline void add_values(Attention buffers, constant AttentionParams& params, PrefillTile tile, uint first_key,
                       thread PrefillState<blocks>& state) {
  threadgroup float4* staged = tile.shared + PREFILL_WEIGHT_VECTORS;
  PrefillValues next = load_values<aligned>(buffers, params, tile, first_key, 0);
  for (uint first = 0; first < PREFILL_TILE; first += PREFILL_VALUE_KEYS) {
    threadgroup const float4* weights = tile.shared + first * PREFILL_WEIGHT_STRIDE + tile.row;
#pragma unroll
    for (uint b = 0; b < blocks; ++b) {
      threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll
      for (uint i = 0; i < PREFILL_VALUE_LOADS; ++i) staged[tile.thread_index + i * PREFILL_THREADS] = next.values[i];
      threadgroup_barrier(mem_flags::mem_threadgroup);
      if (b + 1 < blocks) {
        next = load_values<aligned>(buffers, params, tile, first_key + first, b + 1);
      } else if (first + PREFILL_VALUE_KEYS < PREFILL_TILE) {
        next = load_values<aligned>(buffers, params, tile, first_key + first + PREFILL_VALUE_KEYS, 0);
      }
      for (uint i = 0; i < PREFILL_VALUE_KEYS; ++i) {
        const float4 weight = weights[i * PREFILL_WEIGHT_STRIDE], value = staged[i * PREFILL_COLS + tile.col];
#pragma unroll
        for (uint r = 0; r < 4; ++r) state.values[b][r] = fma(float4(weight[r]), value, state.values[b][r]);
      }
    }
  }
}

// One threadgroup: PREFILL_TILE queries of one head.
template <uint blocks, bool aligned>
inline void attend_prompt(Attention buffers, constant AttentionParams& params, constant Step& step, uint2 group,
                          threadgroup float4* shared, uint thread_index) {
  PrefillTile tile;
  tile.shared = shared;
  tile.head = group.x;
  tile.kv_head = group.x / (params.n_heads / params.n_kv_heads);
  tile.first = (step.position / PREFILL_TILE + group.y) * PREFILL_TILE;
  tile.begin = step.position;
  tile.end = step.position + step.n_tokens;
  tile.thread_index = thread_index;
  tile.row = thread_index / PREFILL_COLS;
  tile.col = thread_index % PREFILL_COLS;

  PrefillState<blocks> state;
#pragma unroll
  for (uint r = 0; r < 4; ++r) {
    state.largest[r] = lowest_score;
    state.sum[r] = 0.0f;
#pragma unroll
    for (uint b = 0; b < blocks; ++b) state.values[b][r] = float4(0.0f);
  }
  for (uint first_key = 0; first_key <= tile.first; first_key += PREFILL_TILE) {
    float4 scores[4];
    score_tile<aligned>(buffers, params, tile, first_key, scores);
    weigh_keys<blocks>(tile, scores, state);
    add_values<blocks, aligned>(buffers, params, tile, first_key, state);
  }
#pragma unroll
  for (uint r = 0; r < 4; ++r) {
    const uint query = tile.first + 4 * tile.row + r;
    if (query < tile.begin || query >= tile.end) continue;
    const ulong head = ulong(query - tile.begin) * params.n_heads + tile.head;
#pragma unroll
    for (uint b = 0; b < blocks; ++b) {
      for (uint i = 0; i < 4; ++i) {
        const uint d = b * PREFILL_VALUE_DIMS + 4 * tile.col + i;
        if (d >= params.head_dim) continue;
        const float value = state.values[b][r][i] / state.sum[r];
        buffers.out[head * params.head_dim + d] =
            gated_output(value, buffers.q_proj + head * params.q_head_stride, params.head_dim, d);
      }
    }
  }
}
