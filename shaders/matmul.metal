// Products of activations with weight matrices, alone and fused with SwiGLU: row by row for the decode step, in tiles
// for prompts.
#include "row_products.h"
#include "tile_products.h"

namespace {

// Tokens first_token .. of x and out, row by row.
inline TileMemory tile_of_tokens(threadgroup float4* weights, threadgroup float4* x, threadgroup uint* rows,
                                 uint first_token, uint thread_index) {
  if (thread_index < TILE_TOKENS) rows[thread_index] = first_token + thread_index;
  TileMemory memory;
  memory.weights = reinterpret_cast<threadgroup float*>(weights);
  memory.x = reinterpret_cast<threadgroup float*>(x);
  memory.x_rows = memory.out_rows = rows;
  return memory;
}

// A threadgroup's rows for one token, n_rows of each lane. How many does not change the sum of a row.
template <uint n_rows>
inline void multiply_token(Matrix matrix, device const float* x, constant MatmulParams& params, uint2 group,
                           threadgroup float* staged, uint thread_index, device float* out) {
  const uint lanes = lanes_per_row(params.cols, format);
  const LaneRows rows = lane_rows(group.x * rows_per_threadgroup(n_rows, lanes), n_rows, lanes, thread_index);
  float sums[n_rows];
  row_products<n_rows>(matrix, x + ulong(group.y) * params.x_stride, staged, rows, sums);
  if (rows.lane != 0) return;
  device float* out_row = out + ulong(group.y) * params.out_stride;
#pragma unroll
  for (uint r = 0; r < n_rows; ++r) {
    const uint row = rows.first + r * rows.stride;
    if (row < params.rows) out_row[row] = accumulate != 0 ? out_row[row] + sums[r] : sums[r];
  }
}

}  // namespace

// threadgroups: [rows / rows_per_threadgroup, n_tokens].
kernel void matmul_decode(device const uchar* weight [[buffer(0)]], device const uchar* scales [[buffer(1)]],
                          device const uchar* biases [[buffer(2)]], device const float* x [[buffer(3)]],
                          device float* out [[buffer(4)]], constant MatmulParams& params [[buffer(5)]],
                          uint2 group [[threadgroup_position_in_grid]],
                          uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float4 staged[BLOCK_FLOATS / 4];
  const Matrix matrix = {weight, scales, biases, params.rows, params.cols, format};
  multiply_token<VECTOR_ROWS_PER_LANE>(matrix, x, params, group, reinterpret_cast<threadgroup float*>(staged),
                                       thread_index, out);
}

// The same for matrices of LARGE_MATRIX_ROWS or more.
kernel void matmul_decode_large(device const uchar* weight [[buffer(0)]], device const uchar* scales [[buffer(1)]],
                                device const uchar* biases [[buffer(2)]], device const float* x [[buffer(3)]],
                                device float* out [[buffer(4)]], constant MatmulParams& params [[buffer(5)]],
                                uint2 group [[threadgroup_position_in_grid]],
                                uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float4 staged[BLOCK_FLOATS / 4];
  const Matrix matrix = {weight, scales, biases, params.rows, params.cols, format};
  multiply_token<LARGE_ROWS_PER_LANE>(matrix, x, params, group, reinterpret_cast<threadgroup float*>(staged),
                                      thread_index, out);
}

// threadgroups: [rows / TILE_ROWS, n_tokens / TILE_TOKENS].
kernel void matmul_prefill(device const uchar* weight [[buffer(0)]], device const uchar* scales [[buffer(1)]],
                           device const uchar* biases [[buffer(2)]], device const float* x [[buffer(3)]],
                           device float* out [[buffer(4)]], constant MatmulParams& params [[buffer(5)]],
                           constant Step& step [[buffer(6)]], uint2 group [[threadgroup_position_in_grid]],
                           uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float4 tile_weights[TILE_WEIGHT_FLOATS / 4];
  threadgroup float4 tile_x[TILE_X_FLOATS / 4];
  threadgroup uint token_rows[TILE_TOKENS];
  const Matrix matrix = {weight, scales, biases, params.rows, params.cols, format};
  const uint first_token = group.y * TILE_TOKENS, first_row = group.x * TILE_ROWS;
  const TileTokens tokens = {x, params.x_stride, min(step.n_tokens - first_token, uint(TILE_TOKENS))};
  const TileMemory memory = tile_of_tokens(tile_weights, tile_x, token_rows, first_token, thread_index);

  tile_products(matrix_tile_row(matrix, first_row, thread_index), tokens, memory, thread_index);
  for (uint i = thread_index; i < tokens.n_tokens * TILE_ROWS; i += TILE_SIMDGROUPS * SIMDGROUP_LANES) {
    const uint token = i / TILE_ROWS, row = i % TILE_ROWS;
    if (first_row + row >= params.rows) continue;
    device float* value = out + ulong(first_token + token) * params.out_stride + first_row + row;
    const float product = memory.weights[token * TILE_ROW_STRIDE + row];
    *value = accumulate != 0 ? *value + product : product;
  }
}

// threadgroups: [rows / rows_per_threadgroup, n_tokens].
kernel void gate_up_decode(device const uchar* gate_weight [[buffer(0)]], device const uchar* gate_scales [[buffer(1)]],
                           device const uchar* gate_biases [[buffer(2)]], device const uchar* up_weight [[buffer(3)]],
                           device const uchar* up_scales [[buffer(4)]], device const uchar* up_biases [[buffer(5)]],
                           device const float* x [[buffer(6)]], device float* out [[buffer(7)]],
                           constant GateUpParams& params [[buffer(8)]], uint2 group [[threadgroup_position_in_grid]],
                           uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float4 staged[BLOCK_FLOATS / 4];
  const Matrix gate_proj = {gate_weight, gate_scales, gate_biases, params.rows, params.cols, gate_format};
  const Matrix up_proj = {up_weight, up_scales, up_biases, params.rows, params.cols, up_format};
  const uint lanes = max(lanes_per_row(params.cols, gate_format), lanes_per_row(params.cols, up_format));
  const uint first_row = group.x * rows_per_threadgroup(FUSED_ROWS_PER_LANE, lanes);
  const LaneRows rows = lane_rows(first_row, FUSED_ROWS_PER_LANE, lanes, thread_index);

  float products[FUSED_ROWS_PER_LANE];
  gate_up_row_products(gate_proj, up_proj, x + ulong(group.y) * params.cols,
                       reinterpret_cast<threadgroup float*>(staged), rows, products);
  if (rows.lane != 0) return;
#pragma unroll
  for (uint r = 0; r < FUSED_ROWS_PER_LANE; ++r) {
    const uint row = rows.first + r * rows.stride;
    if (row < params.rows) out[ulong(group.y) * params.rows + row] = products[r];
  }
}

// threadgroups: [rows / FUSED_TILE_ROWS, n_tokens / TILE_TOKENS].
kernel void gate_up_prefill(device const uchar* gate_weight [[buffer(0)]],
                            device const uchar* gate_scales [[buffer(1)]],
                            device const uchar* gate_biases [[buffer(2)]], device const uchar* up_weight [[buffer(3)]],
                            device const uchar* up_scales [[buffer(4)]], device const uchar* up_biases [[buffer(5)]],
                            device const float* x [[buffer(6)]], device float* out [[buffer(7)]],
                            constant GateUpParams& params [[buffer(8)]], constant Step& step [[buffer(9)]],
                            uint2 group [[threadgroup_position_in_grid]],
                            uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float4 tile_weights[TILE_WEIGHT_FLOATS / 4];
  threadgroup float4 tile_x[TILE_X_FLOATS / 4];
  threadgroup uint token_rows[TILE_TOKENS];
  const Matrix gate_proj = {gate_weight, gate_scales, gate_biases, params.rows, params.cols, gate_format};
  const Matrix up_proj = {up_weight, up_scales, up_biases, params.rows, params.cols, up_format};
  const uint first_token = group.y * TILE_TOKENS, first_row = group.x * FUSED_TILE_ROWS;
  const TileTokens tokens = {x, params.cols, min(step.n_tokens - first_token, uint(TILE_TOKENS))};
  const TileMemory memory = tile_of_tokens(tile_weights, tile_x, token_rows, first_token, thread_index);

  tile_products(gate_up_tile_row(gate_proj, up_proj, first_row, thread_index), tokens, memory, thread_index);
  store_gate_up(memory, tokens.n_tokens, first_row, params.rows, out, thread_index);
}
