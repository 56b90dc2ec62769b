// Products of weight rows with one activation row: what the kernels of the decode step share. The activation row is
// staged in threadgroup memory; each lane multiplies chunks of several weight rows with it.
#pragma once
#include "dequant.h"

// Which rows a lane works for, and with which other lanes.
struct LaneRows {
  uint first;  // the rows are first, first + stride, ..
  uint stride;
  uint lane;  // among the lanes of a row
  uint lanes;
  uint thread_index;  // in the threadgroup
};

// For the threadgroup whose rows begin at first_row.
inline LaneRows lane_rows(uint first_row, uint rows_per_lane, uint lanes, uint thread_index) {
  const uint simdgroup = thread_index / SIMDGROUP_LANES, lane = thread_index % SIMDGROUP_LANES;
  LaneRows result;
  result.stride = SIMDGROUP_LANES / lanes;
  result.first = first_row + simdgroup * rows_per_lane * result.stride + lane / lanes;
  result.lane = lane % lanes;
  result.lanes = lanes;
  result.thread_index = thread_index;
  return result;
}

// A gap of four after every 32 floats: lanes that read neighbouring chunks, of 8 or 32, meet no bank twice.
inline uint staged_index(uint col) { return col + col / 32 * 4; }

// Columns first .. first + count - 1 of the activation row.
struct StagedBlock {
  threadgroup const float* x;
  uint first;
  uint count;
};

// Copies the columns from `first` on, and zeros behind the last one up to a multiple of 32. All threads must take part.
inline StagedBlock stage_block(device const float* x, uint first, uint cols, threadgroup float* staged,
                               uint thread_index) {
  const uint count = min(cols - first, uint(BLOCK_COLS));
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint col = thread_index; col < n_tiles(count, 32) * 32; col += VECTOR_SIMDGROUPS * SIMDGROUP_LANES) {
    staged[staged_index(col)] = col < count ? x[first + col] : 0.0f;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const StagedBlock block = {staged, first, count};
  return block;
}

// 32 of them, four in a vector; first is a multiple of 32 that counts from the first of the block.
inline threadgroup const float4* staged_vectors(StagedBlock block, uint first) {
  return reinterpret_cast<threadgroup const float4*>(block.x + staged_index(first));
}

inline float add_dot(float4 a, float4 b, float sum) {
  return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}

// Adds the products of a block with affine rows; chunks of 32 columns. `aligned`: they suit the widest loads, which
// compilers then issue one after the other without a branch between them.
template <uint bits, uint n_rows, bool aligned>
inline void add_affine_products(thread const MatrixRow* rows, uint quant_format, StagedBlock block, LaneRows lanes,
                                thread float* sums) {
  for (uint chunk = lanes.lane; chunk * 32 < block.count; chunk += lanes.lanes) {
    const uint col = block.first + chunk * 32;
    uint words[n_rows * bits];
    Affine affine[n_rows];
#pragma unroll
    for (uint r = 0; r < n_rows; ++r) {
      MatrixRow row = rows[r];
      if (aligned) row.weight_low_bits = row.scale_low_bits = 0;
      load_words<bits>(row.weight + ulong(col / 32) * bits * 4, row.weight_low_bits, words + r * bits);
      affine[r] = load_affine(row, quant_format, col);
    }
    threadgroup const float4* vectors = staged_vectors(block, chunk * 32);
    float products[n_rows] = {};
    float x_sum = 0.0f;
#pragma unroll
    for (uint i = 0; i < 32; i += 4) {
      const float4 x = vectors[i / 4];
      x_sum += (x.x + x.y) + (x.z + x.w);
#pragma unroll
      for (uint r = 0; r < n_rows; ++r) {
        thread const uint* codes = words + r * bits;
        const float4 weights = float4(centred_code<bits>(codes, i), centred_code<bits>(codes, i + 1),
                                      centred_code<bits>(codes, i + 2), centred_code<bits>(codes, i + 3));
        products[r] = add_dot(weights, x, products[r]);
      }
    }
#pragma unroll
    for (uint r = 0; r < n_rows; ++r) {
      sums[r] = fma(affine[r].scale, products[r], fma(affine[r].bias, x_sum, sums[r]));
    }
  }
}

// The same for rows at any address.
template <uint bits, uint n_rows>
inline void add_affine_products(thread const MatrixRow* rows, uint quant_format, StagedBlock block, LaneRows lanes,
                                thread float* sums) {
  uint weight_low_bits = 0, scale_low_bits = 0;
#pragma unroll
  for (uint r = 0; r < n_rows; ++r) {
    weight_low_bits |= rows[r].weight_low_bits;
    scale_low_bits |= rows[r].scale_low_bits;
  }
  const uint widest = bits % 4 == 0 ? 16 : bits % 2 == 0 ? 8 : 4;
  if (weight_low_bits % widest == 0 && scale_low_bits % dtype_nbytes(format_dtype(quant_format)) == 0) {
    add_affine_products<bits, n_rows, true>(rows, quant_format, block, lanes, sums);
  } else {
    add_affine_products<bits, n_rows, false>(rows, quant_format, block, lanes, sums);
  }
}

// Adds the products of a block with unquantised rows of n_cols columns; chunks of 8 columns.
template <uint n_rows>
inline void add_element_products(thread const MatrixRow* rows, uint dtype, uint n_cols, StagedBlock block,
                                 LaneRows lanes, thread float* sums) {
  for (uint chunk = lanes.lane; chunk * 8 < block.count; chunk += lanes.lanes) {
    threadgroup const float4* vectors = staged_vectors(block, chunk / 4 * 32);
    const float4 x0 = vectors[chunk % 4 * 2], x1 = vectors[chunk % 4 * 2 + 1];
#pragma unroll
    for (uint r = 0; r < n_rows; ++r) {
      float weights[8];
      load_elements(rows[r], dtype, n_cols, block.first + chunk * 8, weights);
      const float4 w0 = float4(weights[0], weights[1], weights[2], weights[3]);
      const float4 w1 = float4(weights[4], weights[5], weights[6], weights[7]);
      sums[r] = add_dot(w1, x1, add_dot(w0, x0, sums[r]));
    }
  }
}

// Adds the products of a block with rows of a matrix.
template <uint n_rows>
inline void add_products(Matrix matrix, thread const MatrixRow* rows, StagedBlock block, LaneRows lanes,
                         thread float* sums) {
  switch (format_bits(matrix.quant_format)) {
    case 0:
      add_element_products<n_rows>(rows, format_dtype(matrix.quant_format), matrix.cols, block, lanes, sums);
      break;
    case 2:
      add_affine_products<2, n_rows>(rows, matrix.quant_format, block, lanes, sums);
      break;
    case 3:
      add_affine_products<3, n_rows>(rows, matrix.quant_format, block, lanes, sums);
      break;
    case 4:
      add_affine_products<4, n_rows>(rows, matrix.quant_format, block, lanes, sums);
      break;
    case 5:
      add_affine_products<5, n_rows>(rows, matrix.quant_format, block, lanes, sums);
      break;
    case 6:
      add_affine_products<6, n_rows>(rows, matrix.quant_format, block, lanes, sums);
      break;
    case 8:
      add_affine_products<8, n_rows>(rows, matrix.quant_format, block, lanes, sums);
      break;
  }
}

// The rows of a lane; those beyond the end repeat the last one, so that every lane reads inside of the matrix.
template <uint n_rows>
inline void lane_matrix_rows(Matrix matrix, LaneRows lanes, thread MatrixRow* rows) {
#pragma unroll
  for (uint r = 0; r < n_rows; ++r) {
    rows[r] = matrix_row(matrix, min(lanes.first + r * lanes.stride, matrix.rows - 1));
  }
}

// sums[r] = row r of the lane times x, in every lane of the row. All threads of the threadgroup must take part.
template <uint n_rows>
inline void row_products(Matrix matrix, device const float* x, threadgroup float* staged, LaneRows lanes,
                         thread float* sums) {
  MatrixRow rows[n_rows];
  lane_matrix_rows<n_rows>(matrix, lanes, rows);
#pragma unroll
  for (uint r = 0; r < n_rows; ++r) sums[r] = 0.0f;
  for (uint first = 0; first < matrix.cols; first += BLOCK_COLS) {
    const StagedBlock block = stage_block(x, first, matrix.cols, staged, lanes.thread_index);
    add_products<n_rows>(matrix, rows, block, lanes, sums);
  }
#pragma unroll
  for (uint r = 0; r < n_rows; ++r) sums[r] = lane_sum(sums[r], lanes.lanes);
}

// products[r] = silu(row r of gate_proj times x) * (row r of up_proj times x), as row_products does it.
inline void gate_up_row_products(Matrix gate_proj, Matrix up_proj, device const float* x, threadgroup float* staged,
                                 LaneRows lanes, thread float* products) {
  MatrixRow gate_rows[FUSED_ROWS_PER_LANE], up_rows[FUSED_ROWS_PER_LANE];
  lane_matrix_rows<FUSED_ROWS_PER_LANE>(gate_proj, lanes, gate_rows);
  lane_matrix_rows<FUSED_ROWS_PER_LANE>(up_proj, lanes, up_rows);
  float gate_sums[FUSED_ROWS_PER_LANE] = {}, up_sums[FUSED_ROWS_PER_LANE] = {};
  for (uint first = 0; first < gate_proj.cols; first += BLOCK_COLS) {
    const StagedBlock block = stage_block(x, first, gate_proj.cols, staged, lanes.thread_index);
    add_products<FUSED_ROWS_PER_LANE>(gate_proj, gate_rows, block, lanes, gate_sums);
    add_products<FUSED_ROWS_PER_LANE>(up_proj, up_rows, block, lanes, up_sums);
  }
#pragma unroll
  for (uint r = 0; r < FUSED_ROWS_PER_LANE; ++r) {
    products[r] = silu(lane_sum(gate_sums[r], lanes.lanes)) * lane_sum(up_sums[r], lanes.lanes);
  }
}
