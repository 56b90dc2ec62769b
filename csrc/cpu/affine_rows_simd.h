// Dot products of affine weight rows with activation rows, written once for all instruction sets and numbers of bits.
//
// A block of an affine row is `lanes` 32-bit lanes of codes_per_lane codes each. Prepared activations hold, per block,
// the values for code 0 of every lane, then for code 1 and so on, each divided by code_unit; then the sum of every
// group, padded to whole vectors. A dot product is sum_group scale * (sum code x) + bias * (sum x), kept in lanes until
// the end of the row.
#pragma once
#include <cstring>

#include "cpu/functions.h"
#include "cpu/prefetch.h"
#include "cpu/simd_math.h"

namespace moeflux::cpu {
namespace {

template <int bits>
struct AffineRows {
  static constexpr int codes = codes_per_lane(bits);
  static constexpr std::size_t block_cols = Simd::lanes * codes;
  static constexpr std::size_t block_nbytes = block_cols * bits / 8;
  // Rows of a tile for one token and for several, by measurement.
  static constexpr int rows_of_vector = bits <= 4 ? 4 : 2;
  static constexpr int rows_of_batch = Simd::lanes == 16 ? 4 : 1;

  static std::size_t padded_groups(std::size_t cols, std::size_t group_size) {
    return round_up(cols / group_size, Simd::lanes);
  }

  static std::size_t prepared_nbytes(const RowDots& format, std::size_t cols) {
    const std::size_t group_size = format.format >> 8 & 0xffff;
    return round_up((round_up(cols, block_cols) + padded_groups(cols, group_size)) * sizeof(float), 64);
  }

  static void prepare(const RowDots& format, const float* x, std::size_t cols, std::byte* prepared) {
    const std::size_t group_size = format.format >> 8 & 0xffff;
    float* out = reinterpret_cast<float*>(prepared);
    for (std::size_t c = 0; c < cols; c += block_cols) {
      float padded[block_cols] = {};
      const float* block = x + c;
      if (cols - c < block_cols) {
        std::memcpy(padded, block, (cols - c) * sizeof(float));
        block = padded;
      }
      Simd::Float values[codes];
      load_deinterleaved<codes>(block, values);
      unroll<codes>([&]<int i>() {
        Simd::store(out + i * Simd::lanes, Simd::multiply(values[i], Simd::broadcast(1.0f / code_unit(bits, i))));
      });
      out += block_cols;
    }
    const std::size_t n_groups = cols / group_size;
    for (std::size_t g = 0; g < padded_groups(cols, group_size); ++g) {
      Simd::Float sum = Simd::zero();
      if (g < n_groups) {
        for (std::size_t c = 0; c < group_size; c += Simd::lanes) {
          sum = Simd::add(sum, Simd::load(x + g * group_size + c));
        }
      }
      *out++ = Simd::sum(sum);
    }
  }

  // One tile: `rows` rows for `tokens` tokens.
  template <int rows, int tokens>
  static void tile(const RowDots& format, const Weights& weights, std::size_t first_row, const std::byte* const* x,
                   float* const* out) {
    const std::uint32_t group_size = format.format >> 8 & 0xffff;
    const int group_shift = shift_of(group_size);
    const Dtype dtype = static_cast<Dtype>(format.format >> 24);
    const std::size_t cols = weights.cols, n_groups = cols >> group_shift;
    const std::size_t row_nbytes = cols / 8 * bits, scales_nbytes = n_groups * dtype_nbytes(dtype);
    const std::size_t prepared_cols = round_up(cols, block_cols);

    const float* values[tokens];
    Simd::Float totals[rows][tokens];
    unroll<tokens>([&]<int t>() {
      values[t] = reinterpret_cast<const float*>(x[t]);
      unroll<rows>([&]<int r>() { totals[r][t] = Simd::zero(); });
    });
    const std::byte* codes_of[rows];
    const std::byte* scales_of[rows];
    const std::byte* biases_of[rows];
    unroll<rows>([&]<int r>() {
      codes_of[r] = weights.weight + (first_row + r) * row_nbytes;
      scales_of[r] = weights.scales + (first_row + r) * scales_nbytes;
      biases_of[r] = weights.biases + (first_row + r) * scales_nbytes;
    });

    // One vector of scales at a time, and the columns that they belong to.
    for (std::size_t group = 0; group < n_groups; group += Simd::lanes) {
      Simd::Float scales[rows];
      unroll<rows>([&]<int r>() {
        const std::size_t n_readable = (weights.rows - first_row - r) * n_groups;
        scales[r] = load_elements(dtype, scales_of[r], group, n_groups, n_readable);
        const Simd::Float biases = load_elements(dtype, biases_of[r], group, n_groups, n_readable);
        unroll<tokens>([&]<int t>() {
          const Simd::Float sums = Simd::load(values[t] + prepared_cols + group);
          totals[r][t] = Simd::multiply_add(biases, sums, totals[r][t]);
        });
      });
      const std::size_t end = group + Simd::lanes < n_groups ? (group + Simd::lanes) << group_shift : cols;
      for (std::size_t c = group << group_shift; c < end; c += block_cols) {
        Simd::Integer words[rows];
        unroll<rows>([&]<int r>() {
          const std::byte* block = codes_of[r] + c / 8 * bits;
          if constexpr (tokens == 1) prefetch(block + prefetch_distance);
          words[r] = load_block(block, cols - c);
        });
        Simd::Float sums[rows][tokens];
        unroll<codes>([&]<int i>() {
          Simd::Float inputs[tokens];
          unroll<tokens>([&]<int t>() { inputs[t] = Simd::load(values[t] + c + i * Simd::lanes); });
          unroll<rows>([&]<int r>() {
            const Simd::Float code = Simd::code<bits, i>(words[r]);
            unroll<tokens>([&]<int t>() {
              if constexpr (i == 0) {
                sums[r][t] = Simd::multiply(code, inputs[t]);
              } else {
                sums[r][t] = Simd::multiply_add(code, inputs[t], sums[r][t]);
              }
            });
          });
        });
        const Simd::GroupIndex index = Simd::group_index<codes>(static_cast<std::uint32_t>(c), group_shift);
        unroll<rows>([&]<int r>() {
          const Simd::Float scale = Simd::pick(scales[r], index);
          unroll<tokens>([&]<int t>() { totals[r][t] = Simd::multiply_add(scale, sums[r][t], totals[r][t]); });
        });
      }
    }
    unroll<rows>([&]<int r>() { unroll<tokens>([&]<int t>() { out[t][r] = Simd::sum(totals[r][t]); }); });
  }

  static void decode(const RowDots& format, const Weights& weights, std::size_t row, float* out) {
    const std::uint32_t group_size = format.format >> 8 & 0xffff;
    const int group_shift = shift_of(group_size);
    const Dtype dtype = static_cast<Dtype>(format.format >> 24);
    const std::size_t cols = weights.cols, n_groups = cols >> group_shift;
    const std::byte* row_codes = weights.weight + row * (cols / 8 * bits);
    const std::size_t scales_nbytes = n_groups * dtype_nbytes(dtype);
    for (std::size_t c = 0; c < cols; c += block_cols) {
      // Scales from the block's first group on; a block never needs more than `lanes` of them.
      const std::size_t group = c >> group_shift;
      const std::uint32_t column = static_cast<std::uint32_t>(c - (group << group_shift));
      const Simd::GroupIndex index = Simd::group_index<codes>(column, group_shift);
      const Simd::Float scales = load_elements(dtype, weights.scales + row * scales_nbytes, group, n_groups);
      const Simd::Float biases = load_elements(dtype, weights.biases + row * scales_nbytes, group, n_groups);
      const Simd::Integer words = load_block(row_codes + c / 8 * bits, cols - c);
      float decoded[codes][Simd::lanes];
      unroll<codes>([&]<int i>() {
        const Simd::Float code = Simd::multiply(Simd::code<bits, i>(words), Simd::broadcast(1.0f / code_unit(bits, i)));
        Simd::store(decoded[i], Simd::multiply_add(code, Simd::pick(scales, index), Simd::pick(biases, index)));
      });
      for (std::size_t i = 0; i < block_cols && c + i < cols; ++i) out[c + i] = decoded[i % codes][i / codes];
    }
  }

  static int shift_of(std::uint32_t group_size) { return group_size == 32 ? 5 : group_size == 64 ? 6 : 7; }

  // The lanes of a block of which `cols` columns are left; absent codes are zero.
  static Simd::Integer load_block(const std::byte* p, std::size_t cols) {
    if (cols >= block_cols) return Simd::spread<bits>(p);
    std::byte padded[block_nbytes] = {};
    std::memcpy(padded, p, cols / 8 * bits);
    return Simd::spread<bits>(padded);
  }
};

}  // namespace
}  // namespace moeflux::cpu
