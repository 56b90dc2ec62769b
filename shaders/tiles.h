// How large a part of a product one threadgroup computes; shared by the shaders and the geometry that launches them.
#pragma once
#include "params.h"

namespace moeflux {

enum Tile : uint32 {
  SIMDGROUP_LANES = 32,

  // Products of weight rows with one activation row, which is staged BLOCK_COLS columns at a time.
  VECTOR_SIMDGROUPS = 8,
  VECTOR_ROWS_PER_LANE = 2,
  FUSED_ROWS_PER_LANE = 1,  // of each of two matrices
  LARGE_ROWS_PER_LANE = 4,  // where there are enough rows for all cores all the same
  LARGE_MATRIX_ROWS = 65536,
  BLOCK_COLS = 2048,
  BLOCK_FLOATS = BLOCK_COLS + BLOCK_COLS / 32 * 4,  // with the gaps of staged_index()

  // Products of weight rows with many activation rows, TILE_COLS columns at a time.
  TILE_SIMDGROUPS = 4,
  TILE_TOKENS = 32,
  TILE_ROWS = 64,
  FUSED_TILE_ROWS = 32,  // of each of two matrices
  TILE_COLS = 32,
  SUMMED_COLS = 512,  // after so many a new sum begins, which bounds the rounding of long rows
  TILE_TOKEN_BLOCKS = TILE_TOKENS / 8,
  TILE_ROW_BLOCKS = TILE_ROWS / 8 / TILE_SIMDGROUPS,  // of a simdgroup
  TILE_ROW_STRIDE = TILE_ROWS + 4,                    // floats between two columns of staged weights
  TILE_COL_STRIDE = TILE_COLS + 4,                    // floats between two tokens of staged activations
  TILE_WEIGHT_FLOATS = TILE_COLS * TILE_ROW_STRIDE,   // the results need as many
  TILE_X_FLOATS = TILE_TOKENS * TILE_COL_STRIDE,

  // Experts: threadgroups along the groups and along the tokens of a group, each of which takes more than one in turn.
  MAX_GROUP_THREADGROUPS = 256,
  MAX_TOKEN_THREADGROUPS = 4,

  // Elementwise kernels and those with a row of activations per threadgroup.
  ELEMENT_THREADS = 256,
  COMBINE_THREADS = 1024,
};

// How many pieces of `size` cover `count`.
inline constexpr uint32 n_tiles(uint32 count, uint32 size) { return (count + size - 1) / size; }

// The columns that one lane multiplies at a time: they lie in one quantisation group.
inline constexpr uint32 chunk_cols(uint32 quant_format) { return format_bits(quant_format) == 0 ? 8 : 32; }

// How many lanes share a row of a matrix: all of them unless its chunks are fewer. A power of two.
inline constexpr uint32 lanes_per_row(uint32 cols, uint32 quant_format) {
  const uint32 n_chunks = n_tiles(cols, chunk_cols(quant_format));
  uint32 lanes = 1;
  while (lanes < n_chunks && lanes < SIMDGROUP_LANES) lanes *= 2;
  return lanes;
}

// The rows of a threadgroup of VECTOR_SIMDGROUPS when each lane works for `rows_per_lane` rows.
inline constexpr uint32 rows_per_threadgroup(uint32 rows_per_lane, uint32 lanes) {
  return VECTOR_SIMDGROUPS * rows_per_lane * (SIMDGROUP_LANES / lanes);
}

}  // namespace moeflux
