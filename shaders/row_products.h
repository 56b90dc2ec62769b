// Products of weight rows with one activation row: what the kernels of the decode step share. The activation row is
// staged in threadgroup memory; each lane multiplies chunks of several weight rows with it.
#pragma once
#include "fixed_point.h"

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

// Copies `count` columns, and zeros behind the last one up to a multiple of 32. All threads must take part.
inline void stage_block(device const float* x, uint count, threadgroup float* staged, uint thread_index) {
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint col = thread_index; col < n_tiles(count, 32) * 32; col += VECTOR_SIMDGROUPS * SIMDGROUP_LANES) {
    staged[staged_index(col)] = col < count ? x[col] : 0.0f;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

// 32 of them, four in a vector; first is a multiple of 32.
inline threadgroup const float4* staged_vectors(threadgroup const float* staged, uint first) {
  return reinterpret_cast<threadgroup const float4*>(staged + staged_index(first));
}

inline float add_dot(float4 a, float4 b, float sum) {
  return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}

// Codes of 32 columns of n_rows rows and what they are worth, as they are stored.
template <uint bits, uint n_rows>
struct CodeChunk {
  uint words[n_rows * bits];
  uint scales[n_rows];
  uint biases[n_rows];
};

// `aligned`: all rows suit the widest loads, which compilers then issue one after the other without a branch.
template <uint bits, uint n_rows, bool aligned>
inline CodeChunk<bits, n_rows> load_codes(thread const MatrixRow* rows, uint quant_format, uint col) {
  const uint dtype = format_dtype(quant_format);
  const uint offset = col / format_group_size(quant_format) * dtype_nbytes(dtype);
  CodeChunk<bits, n_rows> chunk;
#pragma unroll
  for (uint r = 0; r < n_rows; ++r) {
    const uint weight_low_bits = aligned ? 0 : rows[r].weight_low_bits;
    const uint scale_low_bits = aligned ? 0 : rows[r].scale_low_bits;
    load_words<bits>(rows[r].weight + ulong(col / 32) * bits * 4, weight_low_bits, chunk.words + r * bits);
    chunk.scales[r] = load_element_bits(rows[r].scales + offset, scale_low_bits, dtype);
    chunk.biases[r] = load_element_bits(rows[r].biases + offset, scale_low_bits, dtype);
  }
  return chunk;
}

// Adds the products of codes with 32 staged activations.
template <uint bits, uint n_rows>
inline void add_code_products(CodeChunk<bits, n_rows> chunk, uint quant_format, threadgroup const float4* vectors,
                              thread float* sums) {
  float products[n_rows] = {};
  float x_sum = 0.0f;
#pragma unroll
  for (uint i = 0; i < 32; i += 4) {
    const float4 x = vectors[i / 4];
    x_sum += (x.x + x.y) + (x.z + x.w);
#pragma unroll
    for (uint r = 0; r < n_rows; ++r) {
      thread const uint* codes = chunk.words + r * bits;
      const float4 weights = float4(centred_code<bits>(codes, i), centred_code<bits>(codes, i + 1),
                                    centred_code<bits>(codes, i + 2), centred_code<bits>(codes, i + 3));
      products[r] = add_dot(weights, x, products[r]);
    }
  }
#pragma unroll
  for (uint r = 0; r < n_rows; ++r) {
    const Affine affine = centred_affine(chunk.scales[r], chunk.biases[r], quant_format);
    sums[r] = fma(affine.scale, products[r], fma(affine.bias, x_sum, sums[r]));
  }
}

// The same with integers.
template <uint bits, uint n_rows>
inline void add_integer_products(CodeChunk<bits, n_rows> chunk, uint quant_format, threadgroup const uint4* vectors,
                                 thread float* sums) {
  const uint dtype = format_dtype(quant_format);
  float scales[n_rows], biases[n_rows];
#pragma unroll
  for (uint r = 0; r < n_rows; ++r) {
    scales[r] = element_value(chunk.scales[r], dtype);
    biases[r] = element_value(chunk.biases[r], dtype);
  }
  add_fixed_point_products<bits, n_rows>(chunk.words, scales, biases, vectors, sums);
}

// sums[r] += what a lane's chunks of affine row r contribute. A chunk is loaded while the one before it is multiplied,
// the first one while activations are staged. All threads must take part, with the same `aligned`.
template <uint bits, uint n_rows, bool aligned>
inline void add_affine_products(thread const MatrixRow* rows, uint quant_format, uint cols, device const float* x,
                                threadgroup float* staged, LaneRows lanes, thread float* sums) {
  const uint n_chunks = cols / 32;
  threadgroup uint4* integers = reinterpret_cast<threadgroup uint4*>(staged);
  uint chunk = lanes.lane;
  CodeChunk<bits, n_rows> next;
  if (chunk < n_chunks) next = load_codes<bits, n_rows, aligned>(rows, quant_format, chunk * 32);
  for (uint first = 0; first < cols; first += BLOCK_COLS) {
    const uint count = min(cols - first, uint(BLOCK_COLS));
    if (in_fixed_point<bits>()) {
      stage_fixed_point<bits>(x + first, count, integers, lanes.thread_index);
    } else {
      stage_block(x + first, count, staged, lanes.thread_index);
    }
    while (chunk * 32 < first + count) {
      const CodeChunk<bits, n_rows> codes = next;
      const uint place = chunk - first / 32;
      chunk += lanes.lanes;
      if (chunk < n_chunks) next = load_codes<bits, n_rows, aligned>(rows, quant_format, chunk * 32);
      if (in_fixed_point<bits>()) {
        add_integer_products<bits, n_rows>(codes, quant_format, integers + place * CHUNK_VECTORS, sums);
      } else {
        add_code_products<bits, n_rows>(codes, quant_format, staged_vectors(staged, place * 32), sums);
      }
    }
  }
}

// The same for unquantised rows; chunks of 8 columns.
template <uint n_rows>
inline void add_element_products(thread const MatrixRow* rows, uint dtype, uint cols, device const float* x,
                                 threadgroup float* staged, LaneRows lanes, thread float* sums) {
  for (uint first = 0; first < cols; first += BLOCK_COLS) {
    const uint count = min(cols - first, uint(BLOCK_COLS));
    stage_block(x + first, count, staged, lanes.thread_index);
    for (uint chunk = lanes.lane; chunk * 8 < count; chunk += lanes.lanes) {
      threadgroup const float4* vectors = staged_vectors(staged, chunk / 4 * 32);
      const float4 x0 = vectors[chunk % 4 * 2], x1 = vectors[chunk % 4 * 2 + 1];
#pragma unroll
      for (uint r = 0; r < n_rows; ++r) {
        float weights[8];
        load_elements(rows[r], dtype, cols, first + chunk * 8, weights);
        const float4 w0 = float4(weights[0], weights[1], weights[2], weights[3]);
        const float4 w1 = float4(weights[4], weights[5], weights[6], weights[7]);
        sums[r] = add_dot(w1, x1, add_dot(w0, x0, sums[r]));
      }
    }
  }
}

// The same for rows of any format; `aligned` as load_codes() has it.
template <uint n_rows, bool aligned>
inline void add_products(uint quant_format, thread const MatrixRow* rows, uint cols, device const float* x,
                         threadgroup float* staged, LaneRows lanes, thread float* sums) {
  switch (format_bits(quant_format)) {
    case 0:
      add_element_products<n_rows>(rows, format_dtype(quant_format), cols, x, staged, lanes, sums);
      break;
    case 2:
      add_affine_products<2, n_rows, aligned>(rows, quant_format, cols, x, staged, lanes, sums);
      break;
    case 3:
      add_affine_products<3, n_rows, aligned>(rows, quant_format, cols, x, staged, lanes, sums);
      break;
    case 4:
      add_affine_products<4, n_rows, aligned>(rows, quant_format, cols, x, staged, lanes, sums);
      break;
    case 5:
      add_affine_products<5, n_rows, aligned>(rows, quant_format, cols, x, staged, lanes, sums);
      break;
    case 6:
      add_affine_products<6, n_rows, aligned>(rows, quant_format, cols, x, staged, lanes, sums);
      break;
    case 8:
      add_affine_products<8, n_rows, aligned>(rows, quant_format, cols, x, staged, lanes, sums);
      break;
  }
}

// sums[r] = row r of the lane times x, in every lane of the row. All threads of the threadgroup must take part.
template <uint n_rows>
inline void multiply_rows(uint quant_format, thread const MatrixRow* rows, uint cols, bool aligned,
                          device const float* x, threadgroup float* staged, LaneRows lanes, thread float* sums) {
#pragma unroll
  for (uint r = 0; r < n_rows; ++r) sums[r] = 0.0f;
  if (aligned) {
    add_products<n_rows, true>(quant_format, rows, cols, x, staged, lanes, sums);
  } else {
    add_products<n_rows, false>(quant_format, rows, cols, x, staged, lanes, sums);
  }
#pragma unroll
  for (uint r = 0; r < n_rows; ++r) sums[r] = lane_sum(sums[r], lanes.lanes);
}

// Whether all rows of a matrix suit the widest loads.
inline bool rows_aligned(Matrix matrix) {
  const uint bits = format_bits(matrix.quant_format);
  if (bits == 0) return false;
  const uint widest = bits % 4 == 0 ? 16 : bits % 2 == 0 ? 8 : 4;
  const uint row_nbytes = matrix.cols / 8 * bits, scale_nbytes = dtype_nbytes(format_dtype(matrix.quant_format));
  return ((low_bits(matrix.weight) | row_nbytes) % widest | low_bits(matrix.scales) % scale_nbytes |
          low_bits(matrix.biases) % scale_nbytes) == 0;
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
  multiply_rows<n_rows>(matrix.quant_format, rows, matrix.cols, rows_aligned(matrix), x, staged, lanes, sums);
}

// products[r] = silu(row r of gate_proj times x) * (row r of up_proj times x), as row_products does it.
inline void gate_up_row_products(Matrix gate_proj, Matrix up_proj, device const float* x, threadgroup float* staged,
                                 LaneRows lanes, thread float* products) {
  MatrixRow rows[2 * FUSED_ROWS_PER_LANE];
  lane_matrix_rows<FUSED_ROWS_PER_LANE>(gate_proj, lanes, rows);
  lane_matrix_rows<FUSED_ROWS_PER_LANE>(up_proj, lanes, rows + FUSED_ROWS_PER_LANE);
  float sums[2 * FUSED_ROWS_PER_LANE];
  if (gate_proj.quant_format == up_proj.quant_format) {
    const bool aligned = rows_aligned(gate_proj) && rows_aligned(up_proj);
    multiply_rows<2 * FUSED_ROWS_PER_LANE>(gate_proj.quant_format, rows, gate_proj.cols, aligned, x, staged, lanes,
                                           sums);
  } else {
    multiply_rows<FUSED_ROWS_PER_LANE>(gate_proj.quant_format, rows, gate_proj.cols, rows_aligned(gate_proj), x, staged,
                                       lanes, sums);
    multiply_rows<FUSED_ROWS_PER_LANE>(up_proj.quant_format, rows + FUSED_ROWS_PER_LANE, up_proj.cols,
                                       rows_aligned(up_proj), x, staged, lanes, sums + FUSED_ROWS_PER_LANE);
  }
#pragma unroll
  for (uint r = 0; r < FUSED_ROWS_PER_LANE; ++r) products[r] = silu(sums[r]) * sums[FUSED_ROWS_PER_LANE + r];
}
