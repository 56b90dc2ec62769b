// The gated delta rule for chunks of a prompt's tokens (Yang et al., Gated Delta Networks, 2024), in the form that
// follows from the recurrence S_t = a_t S_{t-1} + u_t k_t^T, u_t = beta_t (v_t - a_t S_{t-1} k_t), with the state S
// before the chunk, D(t, j) = a_{j+1} .. a_t and G(t) = a_1 .. a_t:
//   S_t = G(t) S + sum_{j <= t} D(t, j) u_j k_j^T
//   u_t = beta_t (v_t - G(t) S k_t) - sum_{j < t} A(t, j) u_j,  A(t, j) = beta_t D(t, j) k_j k_t
//   out_t = G(t) S q_t + sum_{j <= t} P(t, j) u_j,              P(t, j) = D(t, j) k_j q_t
// so that the u of a chunk solve a unit lower triangular system. D and G are products of decays from the diagonal on:
// they may become zero but never overflow. Chunks lie at multiples of CHUNK positions; tokens outside of the step have
// decay 1 and zeros for all else.
#pragma once
#include "delta_rule.h"
#include "mixer_tiles.h"
#include "vector_loads.h"

enum ChunkShares : uint {
  CHUNK_SIMDGROUPS = CHUNK_THREADS / 32,
  CHUNK_LOADS = 2 * CHUNK / CHUNK_SIMDGROUPS,  // rows of keys and queries that a simdgroup loads
  CHUNK_TOKENS = CHUNK / CHUNK_SIMDGROUPS,     // tokens of a thread: simdgroup, simdgroup + CHUNK_SIMDGROUPS ..
  CHUNK_COLS = 16,                             // threads that share four rows of the products
  CHUNK_STAGED_STRIDE = CHUNK_DIMS / 4 + 1,    // vectors; odd, so that neighbouring rows lie in different banks
  CHUNK_PRODUCT_STRIDE = CHUNK + CHUNK_ROWS,   // with keys, then with rows of the state
  CHUNK_SHARED_VECTORS = 2 * CHUNK * CHUNK_PRODUCT_STRIDE / 4,
  CHUNK_RATIO_VECTORS = CHUNK * CHUNK / 4,
  CHUNK_INVERSES = CHUNK * CHUNK_BLOCK,
  CHUNK_RIGHT_SIDES = CHUNK_BLOCK * CHUNK_ROWS,
};

// Threadgroup memory of a chunk.
struct ChunkShared {
  // One after the other: CHUNK_DIMS columns of keys, queries and state rows; the products [2 * CHUNK,
  // CHUNK_PRODUCT_STRIDE], which become A and u and, below them, P and out; keys [CHUNK, 4 * 32].
  threadgroup float4* vectors;
  threadgroup float4* ratios;       // D [CHUNK, CHUNK], row t; at last u D(last) [CHUNK, CHUNK_ROWS]
  threadgroup float* decays;        // a [CHUNK]
  threadgroup float* total_decays;  // G [CHUNK]
  threadgroup float* betas;         // [CHUNK]
  threadgroup float* inverses;      // of the diagonal blocks of 1 + A [CHUNK, CHUNK_BLOCK]
  threadgroup float* right_sides;   // of a block [CHUNK_BLOCK, CHUNK_ROWS]
};

// What a thread loads of a chunk: columns 4 * lane .. of keys, then queries, and values of state row `lane`.
struct ChunkInputs {
  float4 rows[CHUNK_LOADS];
  float values[CHUNK_TOKENS];
  float decay;  // of token `lane`
  float beta;
};

// The heads and rows of a threadgroup, and a thread's place.
struct ChunkPlace {
  DeltaHead head;
  uint first_row;  // of the state
  uint thread_index;
  uint lane;
  uint simdgroup;
};

// Tokens of the chunk at position `first`; those outside of the step have decay 1 and zeros for all else.
template <bool aligned>
inline ChunkInputs load_chunk(DeltaRule buffers, constant GatedDeltaNetParams& params, constant Step& step,
                              ChunkPlace place, uint first) {
  const DeltaHead head = place.head;
  ChunkInputs inputs;
#pragma unroll
  for (uint i = 0; i < CHUNK_LOADS; ++i) {
    const uint row = place.simdgroup + i * CHUNK_SIMDGROUPS, token = first + row % CHUNK - step.position;
    device const float* source = buffers.qkv + ulong(token) * head.qkv_width + (row < CHUNK ? head.k : head.q);
    inputs.rows[i] = token < step.n_tokens ? load_four<aligned>(source, 4 * place.lane, head.key_dim) : float4(0.0f);
  }
  const uint value_row = place.first_row + place.lane;
#pragma unroll
  for (uint i = 0; i < CHUNK_TOKENS; ++i) {
    const uint token = first + place.simdgroup + i * CHUNK_SIMDGROUPS - step.position;
    const bool exists = token < step.n_tokens && value_row < head.value_dim;
    inputs.values[i] = exists ? buffers.qkv[ulong(token) * head.qkv_width + head.v + value_row] : 0.0f;
  }
  const uint token = first + place.lane - step.position;
  const ulong index = ulong(token) * params.n_value_heads + head.index;
  inputs.decay = token < step.n_tokens ? buffers.decay[index] : 1.0f;
  inputs.beta = token < step.n_tokens ? buffers.beta[index] : 0.0f;
  return inputs;
}

// Makes keys and queries unit vectors, queries over sqrt(key_dim).
inline void normalise_rows(thread ChunkInputs& inputs, constant GatedDeltaNetParams& params) {
  const float query_factor = precise::rsqrt(float(params.key_dim));
#pragma unroll
  for (uint i = 0; i < CHUNK_LOADS; ++i) {
    const float sum = simd_sum(dot(inputs.rows[i], inputs.rows[i]));
    const float factor = precise::rsqrt(sum + params.epsilon);
    inputs.rows[i] *= i < CHUNK_LOADS / 2 ? factor : factor * query_factor;
  }
}

// D and G, a column each by the first CHUNK + 1 threads.
inline void multiply_decays(ChunkShared shared, uint thread_index) {
  if (thread_index > CHUNK) return;
  threadgroup float* ratios = reinterpret_cast<threadgroup float*>(shared.ratios);
  float product = 1.0f;
#pragma unroll
  for (uint t = 0; t < CHUNK; ++t) {
    const float decayed = product * shared.decays[t];
    product = thread_index == CHUNK || t > thread_index ? decayed : 1.0f;
    if (thread_index == CHUNK) {
      shared.total_decays[t] = product;
    } else {
      ratios[t * CHUNK + thread_index] = product;
    }
  }
}

// products[r]: row 4 * row + r of keys and queries with keys col and col + CHUNK_COLS and with the same state rows.
inline void multiply_rows(ChunkPlace place, ChunkShared shared, thread const ChunkInputs& inputs,
                          thread const float4* state, thread float4* products) {
  const uint row = place.thread_index / CHUNK_COLS, col = place.thread_index % CHUNK_COLS;
  const uint vectors = CHUNK_DIMS / 4, vector = place.lane % vectors;
  threadgroup const float4* left = shared.vectors + 4 * row * CHUNK_STAGED_STRIDE;
  threadgroup const float4* keys = shared.vectors + col * CHUNK_STAGED_STRIDE;
  threadgroup const float4* states = keys + 2 * CHUNK * CHUNK_STAGED_STRIDE;
#pragma unroll
  for (uint r = 0; r < 4; ++r) products[r] = float4(0.0f);
  for (uint block = 0; block * CHUNK_DIMS < place.head.key_dim; ++block) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (place.lane / vectors == block) {
#pragma unroll
      for (uint i = 0; i < CHUNK_LOADS; ++i) {
        shared.vectors[(place.simdgroup + i * CHUNK_SIMDGROUPS) * CHUNK_STAGED_STRIDE + vector] = inputs.rows[i];
      }
#pragma unroll
      for (uint r = 0; r < 4; ++r) {
        shared.vectors[(2 * CHUNK + 4 * place.simdgroup + r) * CHUNK_STAGED_STRIDE + vector] = state[r];
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint d = 0; d < vectors; ++d) {
      const float4 right[4] = {keys[d], keys[CHUNK_COLS * CHUNK_STAGED_STRIDE + d], states[d],
                               states[CHUNK_COLS * CHUNK_STAGED_STRIDE + d]};
#pragma unroll
      for (uint r = 0; r < 4; ++r) {
        const float4 a = left[r * CHUNK_STAGED_STRIDE + d];
#pragma unroll
        for (uint c = 0; c < 4; ++c) {
          products[r][c] = add_dot(a, right[c], products[r][c]);
        }
      }
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

// Stores the products as A, S k, P and G S q.
inline void store_products(ChunkPlace place, ChunkShared shared, thread const float4* products) {
  const uint row = place.thread_index / CHUNK_COLS, col = place.thread_index % CHUNK_COLS;
  threadgroup const float* ratios = reinterpret_cast<threadgroup const float*>(shared.ratios);
  threadgroup float* stored = reinterpret_cast<threadgroup float*>(shared.vectors);
#pragma unroll
  for (uint r = 0; r < 4; ++r) {
    const uint product_row = 4 * row + r, t = product_row % CHUNK;
    const bool of_key = product_row < CHUNK;
    threadgroup float* out = stored + product_row * CHUNK_PRODUCT_STRIDE + col;
#pragma unroll
    for (uint c = 0; c < 2; ++c) {
      const uint j = col + c * CHUNK_COLS;
      const float factor = of_key ? shared.betas[t] : 1.0f;
      const bool visible = j < t || (j == t && !of_key);
      out[c * CHUNK_COLS] = visible ? factor * ratios[t * CHUNK + j] * products[r][c] : 0.0f;
    }
    const float decay = of_key ? 1.0f : shared.total_decays[t];
    out[2 * CHUNK_COLS] = decay * products[r][2];
    out[3 * CHUNK_COLS] = decay * products[r][3];
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

// Column `column` of the inverse of a diagonal block of 1 + A, by forward substitution.
inline void invert_block(ChunkShared shared, uint first, uint column) {
  threadgroup const float* a = reinterpret_cast<threadgroup const float*>(shared.vectors);
  float inverse[CHUNK_BLOCK];
#pragma unroll
  for (uint i = 0; i < CHUNK_BLOCK; ++i) {
    float sum = i == column ? 1.0f : 0.0f;
#pragma unroll
    for (uint j = 0; j < i; ++j) sum = fma(-a[(first + i) * CHUNK_PRODUCT_STRIDE + first + j], inverse[j], sum);
    inverse[i] = sum;
    shared.inverses[(first + i) * CHUNK_BLOCK + column] = sum;
  }
}

// (1 + A) u = beta (v - G S k), CHUNK_BLOCK tokens at a time: u[i] of token simdgroup + i * CHUNK_SIMDGROUPS and state
// row `lane`, also left in threadgroup memory.
inline void solve_chunk(ChunkPlace place, ChunkShared shared, thread const ChunkInputs& inputs, thread float* u) {
  threadgroup float* products = reinterpret_cast<threadgroup float*>(shared.vectors);
  if (place.thread_index < CHUNK) {
    const uint column = place.thread_index % CHUNK_BLOCK;
    invert_block(shared, place.thread_index - column, column);
  }
  threadgroup float* column = products + CHUNK + place.lane;
#pragma unroll
  for (uint i = 0; i < CHUNK_TOKENS; ++i) {
    const uint first = i * CHUNK_BLOCK, t = first + place.simdgroup;
    threadgroup const float* a = products + t * CHUNK_PRODUCT_STRIDE;
    float sum = inputs.values[i] - shared.total_decays[t] * column[t * CHUNK_PRODUCT_STRIDE];
    sum *= shared.betas[t];
#pragma unroll
    for (uint j = 0; j < first; ++j) sum = fma(-a[j], column[j * CHUNK_PRODUCT_STRIDE], sum);
    shared.right_sides[place.simdgroup * CHUNK_ROWS + place.lane] = sum;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    sum = 0.0f;
#pragma unroll
    for (uint j = 0; j < CHUNK_BLOCK; ++j) {
      sum = fma(shared.inverses[t * CHUNK_BLOCK + j], shared.right_sides[j * CHUNK_ROWS + place.lane], sum);
    }
    column[t * CHUNK_PRODUCT_STRIDE] = sum;
    u[i] = sum;
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}

// out = G S q + P u.
inline void store_chunk(DeltaRule buffers, constant GatedDeltaNetParams& params, constant Step& step, ChunkPlace place,
                        ChunkShared shared, uint first) {
  threadgroup const float* products = reinterpret_cast<threadgroup const float*>(shared.vectors);
  threadgroup const float* column = products + CHUNK + place.lane;
  threadgroup const float* weights = products + (CHUNK + place.simdgroup) * CHUNK_PRODUCT_STRIDE;
  const uint step_stride = CHUNK_SIMDGROUPS * CHUNK_PRODUCT_STRIDE;
  float sums[CHUNK_TOKENS];
#pragma unroll
  for (uint i = 0; i < CHUNK_TOKENS; ++i) sums[i] = weights[i * step_stride + CHUNK + place.lane];
  for (uint j = 0; j < CHUNK; j += 4) {
    const float4 u = float4(column[j * CHUNK_PRODUCT_STRIDE], column[(j + 1) * CHUNK_PRODUCT_STRIDE],
                            column[(j + 2) * CHUNK_PRODUCT_STRIDE], column[(j + 3) * CHUNK_PRODUCT_STRIDE]);
#pragma unroll
    for (uint i = 0; i < CHUNK_TOKENS; ++i) {
      const float4 w = *reinterpret_cast<threadgroup const float4*>(weights + i * step_stride + j);
      sums[i] = add_dot(w, u, sums[i]);
    }
  }
  const uint row = place.first_row + place.lane;
#pragma unroll
  for (uint i = 0; i < CHUNK_TOKENS; ++i) {
    const uint token = first + place.simdgroup + i * CHUNK_SIMDGROUPS - step.position;
    if (token < step.n_tokens && row < place.head.value_dim) {
      buffers.out[(ulong(token) * params.n_value_heads + place.head.index) * place.head.value_dim + row] = sums[i];
    }
  }
}

// Puts keys and u D(last) where advance_state reads them.
inline void share_updates(ChunkPlace place, ChunkShared shared, thread const ChunkInputs& inputs,
                          thread const float* u) {
  threadgroup float* ratios = reinterpret_cast<threadgroup float*>(shared.ratios);
  float decayed[CHUNK_TOKENS];
#pragma unroll
  for (uint i = 0; i < CHUNK_TOKENS; ++i) {
    decayed[i] = u[i] * ratios[(CHUNK - 1) * CHUNK + place.simdgroup + i * CHUNK_SIMDGROUPS];
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll
  for (uint i = 0; i < CHUNK_TOKENS; ++i) {
    const uint t = place.simdgroup + i * CHUNK_SIMDGROUPS;
    ratios[t * CHUNK_ROWS + place.lane] = decayed[i];
    shared.vectors[t * 32 + place.lane] = inputs.rows[i];
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

// S = G(last) S + sum_j D(last, j) u_j k_j^T: of four rows, four columns.
inline void advance_state(ChunkPlace place, ChunkShared shared, thread float4* state) {
#pragma unroll
  for (uint r = 0; r < 4; ++r) state[r] *= shared.total_decays[CHUNK - 1];
  for (uint j = 0; j < CHUNK; ++j) {
    const float4 key = shared.vectors[j * 32 + place.lane];
    const float4 u = shared.ratios[j * (CHUNK_ROWS / 4) + place.simdgroup];
#pragma unroll
    for (uint r = 0; r < 4; ++r) state[r] = fma(float4(u[r]), key, state[r]);
  }
}

// One threadgroup: CHUNK_ROWS rows of the state of one value head, for all tokens of the step. A simdgroup keeps four
// rows, a lane four columns of them.
template <bool aligned>
inline void run_chunks(DeltaRule buffers, constant GatedDeltaNetParams& params, constant Step& step, uint2 group,
                       ChunkShared shared, uint thread_index, uint lane, uint simdgroup) {
  ChunkPlace place;
  place.head = delta_head(params, group.y);
  place.first_row = group.x * CHUNK_ROWS;
  place.thread_index = thread_index;
  place.lane = lane;
  place.simdgroup = simdgroup;
  const uint first_row = place.first_row + 4 * simdgroup, n = params.key_dim, value_dim = params.value_dim;
  device float* rows = buffers.state + (ulong(place.head.index) * value_dim + first_row) * n;
  float4 state[4];
#pragma unroll
  for (uint r = 0; r < 4; ++r) {
    state[r] = first_row + r < value_dim ? load_four<aligned>(rows + r * n, 4 * lane, n) : float4(0.0f);
  }
  const uint end = step.position + step.n_tokens;
  uint first = step.position / CHUNK * CHUNK;
  ChunkInputs inputs = load_chunk<aligned>(buffers, params, step, place, first);
  for (; first < end; first += CHUNK) {
    if (thread_index < CHUNK) {
      shared.decays[lane] = inputs.decay;
      shared.betas[lane] = inputs.beta;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    multiply_decays(shared, thread_index);
    normalise_rows(inputs, params);
    float4 products[4];
    multiply_rows(place, shared, inputs, state, products);
    store_products(place, shared, products);
    float u[CHUNK_TOKENS];
    solve_chunk(place, shared, inputs, u);
    store_chunk(buffers, params, step, place, shared, first);
    share_updates(place, shared, inputs, u);
    // The next chunk is on its way while the state advances.
    if (first + CHUNK < end) inputs = load_chunk<aligned>(buffers, params, step, place, first + CHUNK);
    advance_state(place, shared, state);
  }
#pragma unroll
  for (uint r = 0; r < 4; ++r) {
    if (first_row + r < value_dim) store_four<aligned>(state[r], rows + r * n, 4 * lane, n);
  }
}
