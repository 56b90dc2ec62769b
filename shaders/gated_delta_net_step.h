// The gated delta rule token by token (Yang et al., Gated Delta Networks, 2024): DELTA_LANES lanes hold a row of the
// state in registers. With the decay a and unit keys k, one pass over the old state gives both products:
//   u = beta (v - a S k), S' = a S + u k^T, out = S' q = a S q + u (k q).
#pragma once
#include "delta_rule.h"
#include "mixer_tiles.h"
#include "vector_loads.h"

// One threadgroup: DELTA_ROWS rows of the state of one value head, for all tokens of the step.
template <uint blocks, bool aligned>
inline void step_delta_rule(DeltaRule buffers, constant GatedDeltaNetParams& params, constant Step& step, uint2 group,
                            uint lane, uint simdgroup) {
  const DeltaHead head = delta_head(params, group.y);
  const uint n = head.key_dim, column = lane % DELTA_LANES * 4;
  const uint row = group.x * DELTA_ROWS + simdgroup * (32 / DELTA_LANES) + lane / DELTA_LANES;
  const bool exists = row < head.value_dim;
  const uint value = min(row, head.value_dim - 1);
  device float* state_row = buffers.state + (ulong(head.index) * head.value_dim + value) * n;
  float4 state[blocks];
#pragma unroll
  for (uint b = 0; b < blocks; ++b) {
    state[b] = exists ? load_four<aligned>(state_row, column + b * 4 * DELTA_LANES, n) : float4(0.0f);
  }

  for (uint t = 0; t < step.n_tokens; ++t) {
    device const float* qkv = buffers.qkv + ulong(t) * head.qkv_width;
    const ulong place = ulong(t) * params.n_value_heads + head.index;
    float4 key[blocks], query[blocks];
#pragma unroll
    for (uint b = 0; b < blocks; ++b) {
      key[b] = load_four<aligned>(qkv + head.k, column + b * 4 * DELTA_LANES, n);
      query[b] = load_four<aligned>(qkv + head.q, column + b * 4 * DELTA_LANES, n);
    }
    float key_key = 0.0f, query_query = 0.0f, key_query = 0.0f, state_key = 0.0f, state_query = 0.0f;
#pragma unroll
    for (uint b = 0; b < blocks; ++b) {
      key_key += dot(key[b], key[b]);
      query_query += dot(query[b], query[b]);
      key_query += dot(key[b], query[b]);
      state_key += dot(state[b], key[b]);
      state_query += dot(state[b], query[b]);
    }
    const float key_factor = precise::rsqrt(lane_sum(key_key, DELTA_LANES) + params.epsilon);
    const float query_factor =
        precise::rsqrt(lane_sum(query_query, DELTA_LANES) + params.epsilon) * precise::rsqrt(float(n));
    key_query = lane_sum(key_query, DELTA_LANES);
    state_key = lane_sum(state_key, DELTA_LANES);
    state_query = lane_sum(state_query, DELTA_LANES);
    const float decay = buffers.decay[place];
    const float delta = buffers.beta[place] * (qkv[head.v + value] - decay * state_key * key_factor) * key_factor;
#pragma unroll
    for (uint b = 0; b < blocks; ++b) state[b] = fma(float4(delta), key[b], state[b] * decay);
    if (exists && lane % DELTA_LANES == 0) {
      buffers.out[place * head.value_dim + row] = fma(delta, key_query, decay * state_query) * query_factor;
    }
  }
  if (!exists) return;
#pragma unroll
  for (uint b = 0; b < blocks; ++b) store_four<aligned>(state[b], state_row, column + b * 4 * DELTA_LANES, n);
}
