// Dot products of affine weight rows with activations in 8 bits, for instruction sets without panels of integers.
//
// Every group of activations becomes signed bytes and a unit, x = unit * byte. Sums of codes times bytes are exact
// integers; codes of 8 bits count as less 128, and their biases as 128 scales more. A dot product is
// sum_group scale * unit * (sum code * byte) + bias * unit * (sum byte), kept in lanes until the end of the row.
//
// Lanes of codes are those of AffineRows, four codes in the bytes of a lane at a time: of a lane with eight, first the
// codes with even numbers. Prepared activations hold the bytes in that order, then the unit of every group, then
// unit * (sum byte) of every group, both padded to whole vectors.
#pragma once
#include "cpu/fixed_point_unit.h"
#include "cpu/matmul_simd.h"
#include "cpu/prefetch.h"

namespace moeflux::cpu {
namespace {

template <int bits, int group_size>
struct Int8Rows {
  using Lanes = AffineRows<bits>;
  static constexpr int codes = codes_per_lane(bits);
  static constexpr int quads = codes / 4;
  static constexpr int block_cols = Lanes::block_cols;
  // Blocks whose products are added as integers: those of a group.
  static constexpr int blocks = group_size > block_cols ? group_size / block_cols : 1;
  static constexpr int rows_of_vector = 4;
  static constexpr int rows_of_batch = 1;

  static std::size_t values_nbytes(std::size_t cols) { return round_up(cols, block_cols); }

  static std::size_t prepared_nbytes(const RowDots&, std::size_t cols) {
    return round_up(values_nbytes(cols) + 2 * Lanes::padded_groups(cols, group_size) * sizeof(float), 64);
  }

  static void prepare(const RowDots&, const float* x, std::size_t cols, std::byte* prepared) {
    const std::size_t n_groups = cols / group_size, padded_groups = Lanes::padded_groups(cols, group_size);
    std::memset(prepared + cols, 0, values_nbytes(cols) - cols);
    float* units = reinterpret_cast<float*>(prepared + values_nbytes(cols));
    std::memset(units, 0, 2 * padded_groups * sizeof(float));
    for (std::size_t g = 0; g < n_groups; ++g) {
      const float* group = x + g * group_size;
      const FixedPointUnit unit(1, largest_magnitude(group));
      std::int32_t integers[group_size], sum = 0;
      for (int i = 0; i < group_size; i += Simd::lanes) {
        const Simd::Float scaled = Simd::multiply(Simd::load(group + i), Simd::broadcast(unit.inverse));
        Simd::store_integers(integers + i, Simd::nearest(scaled));
      }
      for (int i = 0; i < group_size; ++i) {
        sum += integers[i];
        prepared[place(g * group_size + i)] = static_cast<std::byte>(integers[i]);
      }
      units[g] = unit.value;
      units[padded_groups + g] = static_cast<float>(sum) * unit.value;
    }
  }

  // One tile: `rows` rows for `tokens` tokens.
  template <int rows, int tokens>
  static void tile(const RowDots& format, const Weights& weights, std::size_t first_row, const std::byte* const* x,
                   float* const* out) {
    constexpr int group_shift = group_size == 32 ? 5 : group_size == 64 ? 6 : 7;
    const Dtype dtype = static_cast<Dtype>(format.format >> 24);
    const std::size_t cols = weights.cols, n_groups = cols / group_size;
    const std::size_t padded_groups = Lanes::padded_groups(cols, group_size);
    const std::size_t row_nbytes = cols / 8 * bits, scales_nbytes = n_groups * dtype_nbytes(dtype);
    const float* units[tokens];
    Simd::Float totals[rows][tokens];
    unroll<tokens>([&]<int t>() {
      units[t] = reinterpret_cast<const float*>(x[t] + values_nbytes(cols));
      unroll<rows>([&]<int r>() { totals[r][t] = Simd::zero(); });
    });

    // One vector of scales at a time, and the columns that they belong to.
    for (std::size_t group = 0; group < n_groups; group += Simd::lanes) {
      Simd::Float scales[rows][tokens];
      unroll<rows>([&]<int r>() {
        const std::size_t n_readable = (weights.rows - first_row - r) * n_groups, row = (first_row + r) * scales_nbytes;
        const Simd::Float scale = load_elements(dtype, weights.scales + row, group, n_groups, n_readable);
        Simd::Float bias = load_elements(dtype, weights.biases + row, group, n_groups, n_readable);
        if constexpr (bits == 8) bias = Simd::multiply_add(scale, Simd::broadcast(128.0f), bias);
        unroll<tokens>([&]<int t>() {
          scales[r][t] = Simd::multiply(scale, Simd::load(units[t] + group));
          totals[r][t] = Simd::multiply_add(bias, Simd::load(units[t] + padded_groups + group), totals[r][t]);
        });
      });
      const std::size_t end = group + Simd::lanes < n_groups ? (group + Simd::lanes) * group_size : cols;
      for (std::size_t c = group * group_size; c < end; c += blocks * block_cols) {
        const Simd::GroupIndex index = Simd::group_index<codes>(static_cast<std::uint32_t>(c), group_shift);
        unroll<rows>([&]<int r>() {
          Simd::Integer codes_of_row[blocks * quads];
          unroll<blocks>([&]<int b>() {
            const std::size_t column = c + b * block_cols;
            const std::byte* block = weights.weight + (first_row + r) * row_nbytes + column / 8 * bits;
            if constexpr (tokens == 1) prefetch(block + prefetch_distance);
            unpack(Lanes::load_block(block, cols - column), codes_of_row + b * quads);
          });
          unroll<tokens>([&]<int t>() {
            const Simd::Float sum = Simd::to_float(Simd::dot<bits>(codes_of_row, x[t] + c));
            totals[r][t] = Simd::multiply_add(sum, Simd::pick(scales[r][t], index), totals[r][t]);
          });
        });
      }
    }
    unroll<rows>([&]<int r>() { unroll<tokens>([&]<int t>() { out[t][r] = Simd::sum(totals[r][t]); }); });
  }

  static void decode(const RowDots& format, const Weights& weights, std::size_t row, float* out) {
    Lanes::decode(format, weights, row, out);
  }

 private:
  // The bits of the largest absolute value; the bits of what is not a number are larger than those of numbers.
  static std::uint32_t largest_magnitude(const float* group) {
    std::uint32_t largest = 0;
    for (int i = 0; i < group_size; ++i) {
      std::uint32_t value;
      std::memcpy(&value, group + i, sizeof value);
      value &= 0x7fffffff;
      largest = value > largest ? value : largest;
    }
    return largest;
  }

  // Where the byte of a column is.
  static std::size_t place(std::size_t column) {
    const std::size_t lane = column % block_cols / codes, code = column % codes;
    return column / block_cols * block_cols + (code % quads * Simd::lanes + lane) * 4 + code / quads;
  }

  // The codes of a block, four to a lane.
  static void unpack(Simd::Integer lanes, Simd::Integer* out) {
    if constexpr (bits == 8) {
      out[0] = lanes;
    } else if constexpr (quads == 1) {
      out[0] = Simd::byte_bits<0, bits>(Simd::fields<bits>(lanes));
    } else {
      if constexpr (bits != 4) lanes = Simd::fields<2 * bits>(lanes);
      out[0] = Simd::byte_bits<0, bits>(lanes);
      out[1] = Simd::byte_bits<bits, bits>(lanes);
    }
  }
};

template <int bits>
RowDots int8_rows(std::uint32_t format) {
  switch (format >> 8 & 0xffff) {
    case 32:
      return row_dots_of<Int8Rows<bits, 32>>(format);
    case 64:
      return row_dots_of<Int8Rows<bits, 64>>(format);
    default:
      return row_dots_of<Int8Rows<bits, 128>>(format);
  }
}

inline RowDots simd_int8_row_dots(std::uint32_t format) {
  return with_bits(format, [&]<int bits>() {
    if constexpr (bits == 0) {
      return simd_row_dots(format);
    } else {
      return int8_rows<bits>(format);
    }
  });
}

}  // namespace
}  // namespace moeflux::cpu
