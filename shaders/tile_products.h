// Products of weight rows with many activation rows: what the prompt's kernels share. A threadgroup computes a tile of
// TILE_TOKENS x TILE_ROWS; weights and activations of TILE_COLS columns at a time lie in threadgroup memory.
#pragma once
#include <metal_simdgroup_matrix>

#include "dequant.h"

// One tile's memory: weights [TILE_COLS][TILE_ROW_STRIDE], which hold the results [TILE_TOKENS][TILE_ROW_STRIDE] in the
// end, activations [TILE_TOKENS][TILE_COL_STRIDE], and which rows of x and out the tokens are.
struct TileMemory {
  threadgroup float* weights;
  threadgroup float* x;
  threadgroup uint* x_rows;
  threadgroup uint* out_rows;
};

// The activations of a tile: n_tokens rows out of x, which are `stride` floats apart.
struct TileTokens {
  device const float* x;
  uint stride;
  uint n_tokens;
};

enum : uint { TILE_X_VALUES = TILE_TOKENS * TILE_COLS / (TILE_SIMDGROUPS * SIMDGROUP_LANES) };

// What a thread brings to TILE_COLS columns of a tile, on its way from the device's memory.
struct LoadedPart {
  uint words[16];  // of one row: codes, or elements as bits of floats
  Affine affine;
  float x[TILE_X_VALUES];
};

// Columns first .. first + TILE_COLS - 1 of the tile's tokens; zeros behind the last token and column.
inline void load_activations(TileTokens tokens, uint first, uint cols, TileMemory memory, uint thread_index,
                             thread LoadedPart& part) {
  const uint col = first + thread_index % TILE_COLS;
#pragma unroll
  for (uint i = 0; i < TILE_X_VALUES; ++i) {
    const uint token = thread_index / TILE_COLS + i * (TILE_SIMDGROUPS * SIMDGROUP_LANES / TILE_COLS);
    part.x[i] = 0.0f;
    if (token < tokens.n_tokens && col < cols) part.x[i] = tokens.x[ulong(memory.x_rows[token]) * tokens.stride + col];
  }
}

inline void store_activations(thread const LoadedPart& part, TileMemory memory, uint thread_index) {
#pragma unroll
  for (uint i = 0; i < TILE_X_VALUES; ++i) {
    const uint token = thread_index / TILE_COLS + i * (TILE_SIMDGROUPS * SIMDGROUP_LANES / TILE_COLS);
    memory.x[token * TILE_COL_STRIDE + thread_index % TILE_COLS] = part.x[i];
  }
}

// Codes 16 * half_index .. of the 32 that begin at column `first`.
template <uint bits>
inline void load_codes(MatrixRow row, uint quant_format, uint first, uint half_index, thread LoadedPart& part) {
  part.affine = load_affine(row, quant_format, first);
  device const uchar* codes = row.weight + (ulong(first / 32) * bits + half_index * (bits / 2)) * 4;
  load_words<(bits + 1) / 2>(codes, low_bits(codes), part.words);
}

// The same as weights at tile[0], tile[TILE_ROW_STRIDE], ..
template <uint bits>
inline void store_codes(thread const LoadedPart& part, uint half_index, threadgroup float* tile) {
  uint words[(bits + 1) / 2];
#pragma unroll
  for (uint i = 0; i < (bits + 1) / 2; ++i) words[i] = part.words[i];
  if (bits % 2 == 1 && half_index == 1) {
#pragma unroll
    for (uint i = 0; i < bits / 2; ++i) words[i] = words[i] >> 16 | words[i + 1] << 16;
    words[bits / 2] >>= 16;
  }
#pragma unroll
  for (uint i = 0; i < 16; ++i) {
    tile[i * TILE_ROW_STRIDE] = fma(part.affine.scale, centred_code<bits>(words, i), part.affine.bias);
  }
}

// Half of the columns first .. first + TILE_COLS - 1 of one row of any format, zeros behind the last of n_cols.
inline void load_row(MatrixRow row, uint quant_format, uint n_cols, uint first, uint half_index,
                     thread LoadedPart& part) {
  switch (format_bits(quant_format)) {
    case 0:
#pragma unroll
      for (uint i = 0; i < 16; i += 8) {
        float elements[8];
        load_elements(row, format_dtype(quant_format), n_cols, first + 16 * half_index + i, elements);
#pragma unroll
        for (uint j = 0; j < 8; ++j) part.words[i + j] = as_type<uint>(elements[j]);
      }
      break;
    case 2:
      load_codes<2>(row, quant_format, first, half_index, part);
      break;
    case 3:
      load_codes<3>(row, quant_format, first, half_index, part);
      break;
    case 4:
      load_codes<4>(row, quant_format, first, half_index, part);
      break;
    case 5:
      load_codes<5>(row, quant_format, first, half_index, part);
      break;
    case 6:
      load_codes<6>(row, quant_format, first, half_index, part);
      break;
    case 8:
      load_codes<8>(row, quant_format, first, half_index, part);
      break;
  }
}

inline void store_row(thread const LoadedPart& part, uint quant_format, uint half_index, threadgroup float* tile) {
  switch (format_bits(quant_format)) {
    case 0:
#pragma unroll
      for (uint i = 0; i < 16; ++i) tile[i * TILE_ROW_STRIDE] = as_type<float>(part.words[i]);
      break;
    case 2:
      store_codes<2>(part, half_index, tile);
      break;
    case 3:
      store_codes<3>(part, half_index, tile);
      break;
    case 4:
      store_codes<4>(part, half_index, tile);
      break;
    case 5:
      store_codes<5>(part, half_index, tile);
      break;
    case 6:
      store_codes<6>(part, half_index, tile);
      break;
    case 8:
      store_codes<8>(part, half_index, tile);
      break;
  }
}

// The row of a tile that a thread stages: of one matrix or of the other, whose format may differ.
struct TileRow {
  MatrixRow row;
  bool of_first;
  uint first_format;
  uint second_format;
  uint cols;
};

// For a tile of TILE_ROWS rows of one matrix. Rows beyond its end repeat the last one.
inline TileRow matrix_tile_row(Matrix matrix, uint first_row, uint thread_index) {
  TileRow result;
  result.row = matrix_row(matrix, min(first_row + thread_index % TILE_ROWS, matrix.rows - 1));
  result.of_first = true;
  result.first_format = result.second_format = matrix.quant_format;
  result.cols = matrix.cols;
  return result;
}

// For a tile of FUSED_TILE_ROWS rows of gate_proj and then those of up_proj.
inline TileRow gate_up_tile_row(Matrix gate_proj, Matrix up_proj, uint first_row, uint thread_index) {
  const uint tile_row = thread_index % TILE_ROWS;
  const uint row = min(first_row + tile_row % FUSED_TILE_ROWS, gate_proj.rows - 1);
  TileRow result;
  result.of_first = tile_row < FUSED_TILE_ROWS;
  result.row = matrix_row(gate_proj, row);
  if (!result.of_first) result.row = matrix_row(up_proj, row);
  result.first_format = gate_proj.quant_format;
  result.second_format = up_proj.quant_format;
  result.cols = gate_proj.cols;
  return result;
}

// The products of a simdgroup: TILE_TOKENS x (TILE_ROW_BLOCKS * 8).
struct TileSums {
  simdgroup_float8x8 blocks[TILE_TOKEN_BLOCKS][TILE_ROW_BLOCKS];
};

inline void clear_tile_sums(thread TileSums& sums) {
#pragma unroll
  for (uint i = 0; i < TILE_TOKEN_BLOCKS; ++i) {
#pragma unroll
    for (uint j = 0; j < TILE_ROW_BLOCKS; ++j) sums.blocks[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  }
}

inline void add_tile_sums(thread TileSums& sums, thread TileSums& totals) {
#pragma unroll
  for (uint i = 0; i < TILE_TOKEN_BLOCKS; ++i) {
#pragma unroll
    for (uint j = 0; j < TILE_ROW_BLOCKS; ++j) {
#pragma unroll
      for (uint k = 0; k < 2; ++k) {
        totals.blocks[i][j].thread_elements()[k] += sums.blocks[i][j].thread_elements()[k];
      }
    }
  }
}

// Adds the products of the staged columns; blocks of tokens behind the last one are left out.
inline void add_tile_products(TileMemory memory, uint n_tokens, uint simdgroup, thread TileSums& sums) {
  threadgroup const float* weights = memory.weights + simdgroup * TILE_ROW_BLOCKS * 8;
#pragma unroll
  for (uint col = 0; col < TILE_COLS; col += 8) {
    simdgroup_float8x8 w[TILE_ROW_BLOCKS];
#pragma unroll
    for (uint j = 0; j < TILE_ROW_BLOCKS; ++j) {
      simdgroup_load(w[j], weights + col * TILE_ROW_STRIDE + j * 8, TILE_ROW_STRIDE);
    }
#pragma unroll
    for (uint i = 0; i < TILE_TOKEN_BLOCKS; ++i) {
      if (i * 8 >= n_tokens) continue;
      simdgroup_float8x8 x;
      simdgroup_load(x, memory.x + i * 8 * TILE_COL_STRIDE + col, TILE_COL_STRIDE);
#pragma unroll
      for (uint j = 0; j < TILE_ROW_BLOCKS; ++j) {
        simdgroup_multiply_accumulate(sums.blocks[i][j], x, w[j], sums.blocks[i][j]);
      }
    }
  }
}

// Puts the results [token][row] where the weights were. All threads must take part.
inline void store_tile_sums(thread const TileSums& sums, TileMemory memory, uint simdgroup) {
  threadgroup_barrier(mem_flags::mem_threadgroup);
  threadgroup float* results = memory.weights + simdgroup * TILE_ROW_BLOCKS * 8;
#pragma unroll
  for (uint i = 0; i < TILE_TOKEN_BLOCKS; ++i) {
#pragma unroll
    for (uint j = 0; j < TILE_ROW_BLOCKS; ++j) {
      simdgroup_store(sums.blocks[i][j], results + i * 8 * TILE_ROW_STRIDE + j * 8, TILE_ROW_STRIDE);
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

// A thread's part of columns first .. first + TILE_COLS - 1.
inline void load_part(TileRow row, TileTokens tokens, TileMemory memory, uint first, uint thread_index,
                      thread LoadedPart& part) {
  const uint half_index = thread_index / TILE_ROWS;
  load_activations(tokens, first, row.cols, memory, thread_index, part);
  if (row.of_first) {
    load_row(row.row, row.first_format, row.cols, first, half_index, part);
  } else {
    load_row(row.row, row.second_format, row.cols, first, half_index, part);
  }
}

inline void store_part(TileRow row, thread const LoadedPart& part, TileMemory memory, uint thread_index) {
  const uint tile_row = thread_index % TILE_ROWS, half_index = thread_index / TILE_ROWS;
  threadgroup float* tile = memory.weights + half_index * 16 * TILE_ROW_STRIDE + tile_row;
  store_activations(part, memory, thread_index);
  if (row.of_first) {
    store_row(part, row.first_format, half_index, tile);
  } else {
    store_row(part, row.second_format, half_index, tile);
  }
}

// memory.weights[token][i] = row i of the tile times the token. Thread j brings row j % TILE_ROWS. All must take part;
// x_rows and out_rows may have been written just before. The next columns are loaded while these are multiplied.
inline void tile_products(TileRow row, TileTokens tokens, TileMemory memory, uint thread_index) {
  const uint simdgroup = thread_index / SIMDGROUP_LANES;
  TileSums totals, sums;
  clear_tile_sums(totals);
  clear_tile_sums(sums);
  LoadedPart part;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  load_part(row, tokens, memory, 0, thread_index, part);
  for (uint first = 0; first < row.cols; first += TILE_COLS) {
    if (first != 0 && first % SUMMED_COLS == 0) {
      add_tile_sums(sums, totals);
      clear_tile_sums(sums);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    store_part(row, part, memory, thread_index);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (first + TILE_COLS < row.cols) load_part(row, tokens, memory, first + TILE_COLS, thread_index, part);
    add_tile_products(memory, tokens.n_tokens, simdgroup, sums);
  }
  add_tile_sums(sums, totals);
  store_tile_sums(totals, memory, simdgroup);
}

// Writes silu(gate_proj x) * (up_proj x) of such a tile to the tokens' rows of out, which are n_rows wide.
inline void store_gate_up(TileMemory memory, uint n_tokens, uint first_row, uint n_rows, device float* out,
                          uint thread_index) {
  for (uint i = thread_index; i < n_tokens * FUSED_TILE_ROWS; i += TILE_SIMDGROUPS * SIMDGROUP_LANES) {
    const uint token = i / FUSED_TILE_ROWS, row = i % FUSED_TILE_ROWS;
    threadgroup const float* results = memory.weights + token * TILE_ROW_STRIDE + row;
    if (first_row + row < n_rows) {
      out[ulong(memory.out_rows[token]) * n_rows + first_row + row] = silu(results[0]) * results[FUSED_TILE_ROWS];
    }
  }
}
