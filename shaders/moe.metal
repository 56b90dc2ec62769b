// Routed experts by slot, all of a dispatch at once, and the sum of their outputs.
#include "row_products.h"
#include "tile_products.h"

namespace {

// Group i of a dispatch; layouts in params.h.
struct ExpertGroup {
  uint slot;
  uint first;
  uint count;
};

inline ExpertGroup expert_group(device const int* groups, uint i) {
  device const int* group = groups + 1 + 3 * i;
  ExpertGroup result;
  result.slot = uint(group[0]);
  result.first = uint(group[1]);
  result.count = uint(group[2]);
  return result;
}

inline Matrix expert_matrix(device const uchar* expert, ExpertMatrix place, uint rows, uint cols, uint quant_format) {
  Matrix matrix;
  matrix.weight = expert + place.weight;
  matrix.scales = expert + place.scales;
  matrix.biases = expert + place.biases;
  matrix.rows = rows;
  matrix.cols = cols;
  matrix.quant_format = quant_format;
  return matrix;
}

// Which rows of x and out the tokens of a tile are: those of `pairs`, pairs_per_x_row of which share a row of x.
inline void set_tile_rows(TileMemory memory, device const int* pairs, uint n_tokens, uint pairs_per_x_row,
                          uint thread_index) {
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (thread_index >= n_tokens) return;
  const uint pair = uint(pairs[thread_index]);
  memory.x_rows[thread_index] = pair / pairs_per_x_row;
  memory.out_rows[thread_index] = pair;
}

// What the experts of a token add to its row of h.
struct ExpertOutputs {
  device const float* expert_out;
  device const float* weights;
  device const float* shared;
  device const float* shared_gate;
  uint width;
  uint top_k;
};

inline float combined(ExpertOutputs outputs, uint token, uint col) {
  float sum = 0.0f;
  for (uint k = 0; k < outputs.top_k; ++k) {
    const ulong pair = ulong(token) * outputs.top_k + k;
    sum = fma(outputs.weights[pair], outputs.expert_out[pair * outputs.width + col], sum);
  }
  if (shared_expert == 0) return sum;
  return fma(sigmoid(outputs.shared_gate[token]), outputs.shared[ulong(token) * outputs.width + col], sum);
}

}  // namespace

// threadgroups: [rows / rows_per_threadgroup, groups, tokens of a group], the last two at most.
kernel void expert_gate_up_decode(device const uchar* slots [[buffer(0)]], device const float* x [[buffer(1)]],
                                  device const int* groups [[buffer(2)]], device const int* pairs [[buffer(3)]],
                                  device float* out [[buffer(4)]], constant ExpertGateUpParams& params [[buffer(5)]],
                                  uint3 place [[threadgroup_position_in_grid]],
                                  uint3 n_threadgroups [[threadgroups_per_grid]],
                                  uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float4 staged[BLOCK_FLOATS / 4];
  const uint lanes = max(lanes_per_row(params.cols, gate_format), lanes_per_row(params.cols, up_format));
  const uint first_row = place.x * rows_per_threadgroup(FUSED_ROWS_PER_LANE, lanes);
  const LaneRows rows = lane_rows(first_row, FUSED_ROWS_PER_LANE, lanes, thread_index);

  const uint n_groups = uint(groups[0]);
  for (uint g = place.y; g < n_groups; g += n_threadgroups.y) {
    const ExpertGroup group = expert_group(groups, g);
    device const uchar* expert = slots + group.slot * params.slot_nbytes;
    const Matrix gate_proj = expert_matrix(expert, params.gate_proj, params.rows, params.cols, gate_format);
    const Matrix up_proj = expert_matrix(expert, params.up_proj, params.rows, params.cols, up_format);
    for (uint i = place.z; i < group.count; i += n_threadgroups.z) {
      const uint pair = uint(pairs[group.first + i]);
      float products[FUSED_ROWS_PER_LANE];
      gate_up_row_products(gate_proj, up_proj, x + ulong(pair / params.top_k) * params.cols,
                           reinterpret_cast<threadgroup float*>(staged), rows, products);
#pragma unroll
      for (uint r = 0; r < FUSED_ROWS_PER_LANE; ++r) {
        const uint row = rows.first + r * rows.stride;
        if (rows.lane == 0 && row < params.rows) out[ulong(pair) * params.rows + row] = products[r];
      }
    }
  }
}

// threadgroups: [rows / FUSED_TILE_ROWS, groups, tiles of a group's tokens], the last two at most.
kernel void expert_gate_up_prefill(device const uchar* slots [[buffer(0)]], device const float* x [[buffer(1)]],
                                   device const int* groups [[buffer(2)]], device const int* pairs [[buffer(3)]],
                                   device float* out [[buffer(4)]], constant ExpertGateUpParams& params [[buffer(5)]],
                                   uint3 place [[threadgroup_position_in_grid]],
                                   uint3 n_threadgroups [[threadgroups_per_grid]],
                                   uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float4 tile_weights[TILE_WEIGHT_FLOATS / 4];
  threadgroup float4 tile_x[TILE_X_FLOATS / 4];
  threadgroup uint x_rows[TILE_TOKENS];
  threadgroup uint out_rows[TILE_TOKENS];
  const TileMemory memory = {reinterpret_cast<threadgroup float*>(tile_weights),
                             reinterpret_cast<threadgroup float*>(tile_x), x_rows, out_rows};
  const uint first_row = place.x * FUSED_TILE_ROWS;

  const uint n_groups = uint(groups[0]);
  for (uint g = place.y; g < n_groups; g += n_threadgroups.y) {
    const ExpertGroup group = expert_group(groups, g);
    device const uchar* expert = slots + group.slot * params.slot_nbytes;
    const Matrix gate_proj = expert_matrix(expert, params.gate_proj, params.rows, params.cols, gate_format);
    const Matrix up_proj = expert_matrix(expert, params.up_proj, params.rows, params.cols, up_format);
    const TileRow row = gate_up_tile_row(gate_proj, up_proj, first_row, thread_index);
    for (uint first = place.z * TILE_TOKENS; first < group.count; first += n_threadgroups.z * TILE_TOKENS) {
      const TileTokens tokens = {x, params.cols, min(group.count - first, uint(TILE_TOKENS))};
      set_tile_rows(memory, pairs + group.first + first, tokens.n_tokens, params.top_k, thread_index);
      tile_products(row, tokens, memory, thread_index);
      store_gate_up(memory, tokens.n_tokens, first_row, params.rows, out, thread_index);
    }
  }
}

// threadgroups: [rows / rows_per_threadgroup, groups, tokens of a group], the last two at most.
kernel void expert_down_decode(device const uchar* slots [[buffer(0)]], device const float* x [[buffer(1)]],
                               device const int* groups [[buffer(2)]], device const int* pairs [[buffer(3)]],
                               device float* out [[buffer(4)]], constant ExpertDownParams& params [[buffer(5)]],
                               uint3 place [[threadgroup_position_in_grid]],
                               uint3 n_threadgroups [[threadgroups_per_grid]],
                               uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float4 staged[BLOCK_FLOATS / 4];
  const uint lanes = lanes_per_row(params.cols, format);
  const uint first_row = place.x * rows_per_threadgroup(VECTOR_ROWS_PER_LANE, lanes);
  const LaneRows rows = lane_rows(first_row, VECTOR_ROWS_PER_LANE, lanes, thread_index);

  const uint n_groups = uint(groups[0]);
  for (uint g = place.y; g < n_groups; g += n_threadgroups.y) {
    const ExpertGroup group = expert_group(groups, g);
    device const uchar* expert = slots + group.slot * params.slot_nbytes;
    const Matrix matrix = expert_matrix(expert, params.down_proj, params.rows, params.cols, format);
    for (uint i = place.z; i < group.count; i += n_threadgroups.z) {
      const uint pair = uint(pairs[group.first + i]);
      float sums[VECTOR_ROWS_PER_LANE];
      row_products<VECTOR_ROWS_PER_LANE>(matrix, x + ulong(pair) * params.cols,
                                         reinterpret_cast<threadgroup float*>(staged), rows, sums);
#pragma unroll
      for (uint r = 0; r < VECTOR_ROWS_PER_LANE; ++r) {
        const uint row = rows.first + r * rows.stride;
        if (rows.lane == 0 && row < params.rows) out[ulong(pair) * params.rows + row] = sums[r];
      }
    }
  }
}

// threadgroups: [rows / TILE_ROWS, groups, tiles of a group's tokens], the last two at most.
kernel void expert_down_prefill(device const uchar* slots [[buffer(0)]], device const float* x [[buffer(1)]],
                                device const int* groups [[buffer(2)]], device const int* pairs [[buffer(3)]],
                                device float* out [[buffer(4)]], constant ExpertDownParams& params [[buffer(5)]],
                                uint3 place [[threadgroup_position_in_grid]],
                                uint3 n_threadgroups [[threadgroups_per_grid]],
                                uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float4 tile_weights[TILE_WEIGHT_FLOATS / 4];
  threadgroup float4 tile_x[TILE_X_FLOATS / 4];
  threadgroup uint x_rows[TILE_TOKENS];
  threadgroup uint out_rows[TILE_TOKENS];
  const TileMemory memory = {reinterpret_cast<threadgroup float*>(tile_weights),
                             reinterpret_cast<threadgroup float*>(tile_x), x_rows, out_rows};
  const uint first_row = place.x * TILE_ROWS;

  const uint n_groups = uint(groups[0]);
  for (uint g = place.y; g < n_groups; g += n_threadgroups.y) {
    const ExpertGroup group = expert_group(groups, g);
    device const uchar* expert = slots + group.slot * params.slot_nbytes;
    const Matrix matrix = expert_matrix(expert, params.down_proj, params.rows, params.cols, format);
    const TileRow row = matrix_tile_row(matrix, first_row, thread_index);
    for (uint first = place.z * TILE_TOKENS; first < group.count; first += n_threadgroups.z * TILE_TOKENS) {
      const TileTokens tokens = {x, params.cols, min(group.count - first, uint(TILE_TOKENS))};
      set_tile_rows(memory, pairs + group.first + first, tokens.n_tokens, 1, thread_index);
      tile_products(row, tokens, memory, thread_index);
      for (uint i = thread_index; i < tokens.n_tokens * TILE_ROWS; i += TILE_SIMDGROUPS * SIMDGROUP_LANES) {
        const uint token = i / TILE_ROWS, tile_row = i % TILE_ROWS;
        if (first_row + tile_row >= params.rows) continue;
        out[ulong(out_rows[token]) * params.rows + first_row + tile_row] =
            memory.weights[token * TILE_ROW_STRIDE + tile_row];
      }
    }
  }
}

static_assert(COMBINE_THREADS == 1024, "as the kernel's attribute says");

// threadgroups: [n_tokens].
[[max_total_threads_per_threadgroup(1024)]] kernel void moe_combine_norm(
    device float* h [[buffer(0)]], device const float* expert_out [[buffer(1)]],
    device const float* weights [[buffer(2)]], device const float* shared [[buffer(3)]],
    device const float* shared_gate [[buffer(4)]], device const uchar* norm_weight [[buffer(5)]],
    device float* out [[buffer(6)]], constant MoeCombineNormParams& params [[buffer(7)]],
    uint token [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float sums[COMBINE_THREADS / SIMDGROUP_LANES];
  const ExpertOutputs outputs = {expert_out, weights, shared, shared_gate, params.width, params.top_k};
  device float* h_row = h + ulong(token) * params.width;
  float sum = 0.0f;
  for (uint col = thread_index; col < params.width; col += COMBINE_THREADS) {
    const float value = h_row[col] + combined(outputs, token, col);
    h_row[col] = value;
    sum = fma(value, value, sum);
  }
  sum = lane_sum(sum, SIMDGROUP_LANES);
  if (thread_index % SIMDGROUP_LANES == 0) sums[thread_index / SIMDGROUP_LANES] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float total = 0.0f;
  for (uint i = 0; i < COMBINE_THREADS / SIMDGROUP_LANES; ++i) total += sums[i];
  const float scale = precise::rsqrt(total / float(params.width) + params.epsilon);

  device float* out_row = out + ulong(token) * params.width;
  const uint weight_low_bits = low_bits(norm_weight);
  for (uint col = thread_index; col < params.width; col += COMBINE_THREADS) {
    const float weight = load_element(norm_weight + col * dtype_nbytes(norm_dtype), weight_low_bits, norm_dtype);
    out_row[col] = h_row[col] * scale * weight;
  }
}
