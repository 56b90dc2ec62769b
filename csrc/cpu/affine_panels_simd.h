// Products of affine weight rows with many tokens: the codes of a few rows become floats once and serve all tokens.
//
// The order of operations is that of AffineRows::tile, so that a token has the same result alone and among others.
#pragma once
#include "cpu/affine_rows_simd.h"

namespace moeflux::cpu {
namespace {

template <int bits>
struct AffinePanels {
  using Rows = AffineRows<bits>;
  static constexpr int codes = Rows::codes;
  static constexpr std::size_t block_cols = Rows::block_cols;
  static constexpr int rows = 4;
  // As many as leave their sums in registers.
  static constexpr int tokens_at_once = Simd::lanes == 16 ? 4 : 3;
  // Fewer do not pay for the way through memory.
  static constexpr std::size_t least_tokens = 12;
  // Of which the codes of all rows fill 8 KiB, a quarter of the nearest cache.
  static constexpr std::size_t most_blocks = 8192 / (codes * rows * Simd::lanes * sizeof(float));

  // Codes as floats, and the scale that each of their lanes has.
  struct Panel {
    alignas(64) float codes_of[most_blocks][codes][rows][Simd::lanes];
    alignas(64) float scales[most_blocks][rows][Simd::lanes];
  };
  // A vector of each row: of totals, or of the scales or biases of as many groups as there are lanes.
  using RowVectors = Simd::Float[rows];

  // out[t][i] = row (first_row + i) . x[t] for as many rows as there are whole panels; returns their number.
  static std::size_t dot(const RowDots& format, const Weights& weights, std::size_t first_row, std::size_t n_rows,
                         const std::byte* const* x, std::size_t n_tokens, float* const* out) {
    std::size_t row = 0;
    for (; row + rows <= n_rows; row += rows) multiply_rows(format, weights, first_row, row, x, n_tokens, out);
    return row;
  }

 private:
  static void multiply_rows(const RowDots& format, const Weights& weights, std::size_t first_row, std::size_t row,
                            const std::byte* const* x, std::size_t n_tokens, float* const* out) {
    const int group_shift = Rows::shift_of(format.format >> 8 & 0xffff);
    const std::size_t cols = weights.cols, n_groups = cols >> group_shift;
    const std::size_t prepared_cols = round_up(cols, block_cols);
    Panel panel;
    RowVectors totals[RowDots::max_tokens];
    for (std::size_t t = 0; t < n_tokens; ++t) unroll<rows>([&]<int r>() { totals[t][r] = Simd::zero(); });

    for (std::size_t group = 0; group < n_groups; group += Simd::lanes) {
      RowVectors scales, biases;
      load_groups(format, weights, weights.scales, first_row + row, group, scales);
      load_groups(format, weights, weights.biases, first_row + row, group, biases);
      for (std::size_t t = 0; t < n_tokens; ++t) {
        const Simd::Float sums = Simd::load(values_of(x[t]) + prepared_cols + group);
        unroll<rows>([&]<int r>() { totals[t][r] = Simd::multiply_add(biases[r], sums, totals[t][r]); });
      }
      const std::size_t end = group + Simd::lanes < n_groups ? (group + Simd::lanes) << group_shift : cols;
      for (std::size_t c = group << group_shift; c < end; c += most_blocks * block_cols) {
        const std::size_t n_left = (end - c + block_cols - 1) / block_cols;
        const std::size_t n_blocks = n_left < most_blocks ? n_left : most_blocks;
        fill(format, weights, first_row + row, scales, c, n_blocks, panel);
        std::size_t t = 0;
        for (; t + tokens_at_once <= n_tokens; t += tokens_at_once) {
          multiply<tokens_at_once>(panel, n_blocks, c, x + t, totals + t);
        }
        for (; t < n_tokens; ++t) multiply<1>(panel, n_blocks, c, x + t, totals + t);
      }
    }
    for (std::size_t t = 0; t < n_tokens; ++t) {
      unroll<rows>([&]<int r>() { out[t][row + r] = Simd::sum(totals[t][r]); });
    }
  }

  static const float* values_of(const std::byte* prepared) { return reinterpret_cast<const float*>(prepared); }

  // From `group` on, of scales or biases [rows, n_groups].
  static void load_groups(const RowDots& format, const Weights& weights, const std::byte* elements, std::size_t row,
                          std::size_t group, RowVectors& out) {
    const Dtype dtype = static_cast<Dtype>(format.format >> 24);
    const std::size_t n_groups = weights.cols >> Rows::shift_of(format.format >> 8 & 0xffff);
    unroll<rows>([&]<int r>() {
      const std::byte* of_row = elements + (row + r) * n_groups * dtype_nbytes(dtype);
      out[r] = load_elements(dtype, of_row, group, n_groups, (weights.rows - row - r) * n_groups);
    });
  }

  // The blocks from column `first_col` on, whose groups are among those of `scales`.
  static void fill(const RowDots& format, const Weights& weights, std::size_t row, const RowVectors& scales,
                   std::size_t first_col, std::size_t n_blocks, Panel& panel) {
    const int group_shift = Rows::shift_of(format.format >> 8 & 0xffff);
    const std::size_t cols = weights.cols, row_nbytes = cols / 8 * bits;
    for (std::size_t block = 0; block < n_blocks; ++block) {
      const std::size_t c = first_col + block * block_cols;
      const Simd::GroupIndex index = Simd::group_index<codes>(static_cast<std::uint32_t>(c), group_shift);
      unroll<rows>([&]<int r>() {
        const std::byte* words_of = weights.weight + (row + r) * row_nbytes + c / 8 * bits;
        const Simd::Integer words = Rows::load_block(words_of, cols - c);
        Simd::store(panel.scales[block][r], Simd::pick(scales[r], index));
        unroll<codes>([&]<int i>() { Simd::store(panel.codes_of[block][i][r], Simd::code<bits, i>(words)); });
      });
    }
  }

  // totals += the panel's columns, from `first_col` on, times `tokens` tokens.
  template <int tokens>
  static void multiply(const Panel& panel, std::size_t n_blocks, std::size_t first_col, const std::byte* const* x,
                       RowVectors* totals) {
    const float* values[tokens];
    // A copy that nothing else can refer to, so that it is stored once and not with every block.
    Simd::Float totals_of[tokens][rows];
    unroll<tokens>([&]<int t>() {
      values[t] = values_of(x[t]) + first_col;
      unroll<rows>([&]<int r>() { totals_of[t][r] = totals[t][r]; });
    });
    for (std::size_t block = 0; block < n_blocks; ++block) {
      Simd::Float sums[tokens][rows];
      unroll<codes>([&]<int i>() {
        Simd::Float inputs[tokens];
        unroll<tokens>([&]<int t>() { inputs[t] = Simd::load(values[t] + block * block_cols + i * Simd::lanes); });
        unroll<rows>([&]<int r>() {
          const Simd::Float code = Simd::load(panel.codes_of[block][i][r]);
          unroll<tokens>([&]<int t>() {
            if constexpr (i == 0) {
              sums[t][r] = Simd::multiply(code, inputs[t]);
            } else {
              sums[t][r] = Simd::multiply_add(code, inputs[t], sums[t][r]);
            }
          });
        });
      });
      unroll<rows>([&]<int r>() {
        const Simd::Float scale = Simd::load(panel.scales[block][r]);
        unroll<tokens>([&]<int t>() { totals_of[t][r] = Simd::multiply_add(scale, sums[t][r], totals_of[t][r]); });
      });
    }
    unroll<tokens>([&]<int t>() { unroll<rows>([&]<int r>() { totals[t][r] = totals_of[t][r]; }); });
  }
};

}  // namespace
}  // namespace moeflux::cpu
