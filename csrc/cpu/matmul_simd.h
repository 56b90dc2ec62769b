// Dot products of weight rows with activation rows, written once for all instruction sets and formats.
#pragma once
#include <cstring>

#include "cpu/affine_panels_simd.h"
#include "cpu/affine_rows_simd.h"
#include "cpu/functions.h"
#include "cpu/prefetch.h"
#include "cpu/simd_math.h"

namespace moeflux::cpu {
namespace {

template <Dtype dtype>
struct UnquantisedRows {
  static constexpr std::size_t element_nbytes = dtype == FLOAT32 ? 4 : 2;
  static constexpr int rows_of_vector = 2;
  static constexpr int rows_of_batch = Simd::lanes == 16 ? 4 : 2;

  static std::size_t prepared_nbytes(const RowDots&, std::size_t) { return 0; }
  static void prepare(const RowDots&, const float*, std::size_t, std::byte*) {}

  static void decode(const RowDots&, const Weights& weights, std::size_t row, float* out) {
    const std::size_t cols = weights.cols;
    const std::byte* elements = weights.weight + row * cols * element_nbytes;
    for_each_vector(cols,
                    [&](std::size_t c, auto part) { store(out + c, load_elements<dtype>(elements, c, cols), part); });
  }

  template <int rows, int tokens>
  static void tile(const RowDots&, const Weights& weights, std::size_t first_row, const std::byte* const* x,
                   float* const* out) {
    const std::size_t cols = weights.cols, row_nbytes = cols * element_nbytes;
    const std::byte* row = weights.weight + first_row * row_nbytes;
    Simd::Float totals[rows][tokens];
    unroll<rows>([&]<int r>() { unroll<tokens>([&]<int t>() { totals[r][t] = Simd::zero(); }); });
    for_each_vector(cols, [&](std::size_t c, auto part) {
      Simd::Float inputs[tokens];
      unroll<tokens>([&]<int t>() { inputs[t] = load_elements<FLOAT32>(x[t] + c * sizeof(float), part); });
      unroll<rows>([&]<int r>() {
        const std::byte* elements = row + r * row_nbytes + c * element_nbytes;
        if constexpr (tokens == 1) prefetch(elements + prefetch_distance);
        const Simd::Float weight = load_elements<dtype>(elements, part);
        unroll<tokens>([&]<int t>() { totals[r][t] = Simd::multiply_add(weight, inputs[t], totals[r][t]); });
      });
    });
    unroll<rows>([&]<int r>() { unroll<tokens>([&]<int t>() { out[t][r] = Simd::sum(totals[r][t]); }); });
  }
};

template <typename Rows, int rows, int tokens>
void dot_rows(const RowDots& format, const Weights& weights, std::size_t first_row, std::size_t n_rows,
              const std::byte* const* x, float* const* out) {
  float* row_out[tokens];
  std::size_t row = 0;
  for (; row + rows <= n_rows; row += rows) {
    for (int t = 0; t < tokens; ++t) row_out[t] = out[t] + row;
    Rows::template tile<rows, tokens>(format, weights, first_row + row, x, row_out);
  }
  for (; row < n_rows; ++row) {
    for (int t = 0; t < tokens; ++t) row_out[t] = out[t] + row;
    Rows::template tile<1, tokens>(format, weights, first_row + row, x, row_out);
  }
}

// Panels of rows, where a format has them, once there are enough tokens.
template <typename Rows>
struct PanelsOf {
  static constexpr std::size_t least_tokens = RowDots::max_tokens + 1;
};
template <int bits>
struct PanelsOf<AffineRows<bits>> : AffinePanels<bits> {};

template <typename Rows>
void dot(const RowDots& format, const Weights& weights, std::size_t first_row, std::size_t n_rows,
         const std::byte* const* x, std::size_t n_tokens, float* const* out) {
  using Panels = PanelsOf<Rows>;
  float* left[RowDots::max_tokens];
  if constexpr (Panels::least_tokens <= RowDots::max_tokens) {
    if (n_tokens >= Panels::least_tokens) {
      const std::size_t n_done = Panels::dot(format, weights, first_row, n_rows, x, n_tokens, out);
      for (std::size_t t = 0; t < n_tokens; ++t) left[t] = out[t] + n_done;
      first_row += n_done, n_rows -= n_done, out = left;
    }
  }
  constexpr int most = 4;
  for (; n_tokens >= most; n_tokens -= most, x += most, out += most) {
    dot_rows<Rows, Rows::rows_of_batch, most>(format, weights, first_row, n_rows, x, out);
  }
  for (; n_tokens >= 2; n_tokens -= 2, x += 2, out += 2) {
    dot_rows<Rows, Rows::rows_of_batch, 2>(format, weights, first_row, n_rows, x, out);
  }
  if (n_tokens == 1) dot_rows<Rows, Rows::rows_of_vector, 1>(format, weights, first_row, n_rows, x, out);
}

template <typename Rows>
RowDots row_dots_of(std::uint32_t format) {
  return RowDots{format, Rows::prepared_nbytes, Rows::prepare, dot<Rows>, Rows::decode};
}

// Calls body.template operator()<bits>() for the bits of an affine format, with 0 for other formats.
template <typename Body>
RowDots with_bits(std::uint32_t format, const Body& body) {
  switch (format & 0xff) {
    case 2:
      return body.template operator()<2>();
    case 3:
      return body.template operator()<3>();
    case 4:
      return body.template operator()<4>();
    case 5:
      return body.template operator()<5>();
    case 6:
      return body.template operator()<6>();
    case 8:
      return body.template operator()<8>();
    default:
      return body.template operator()<0>();
  }
}

inline RowDots simd_row_dots(std::uint32_t format) {
  return with_bits(format, [&]<int bits>() {
    if constexpr (bits != 0) return row_dots_of<AffineRows<bits>>(format);
    switch (format >> 24) {
      case FLOAT16:
        return row_dots_of<UnquantisedRows<FLOAT16>>(format);
      case BFLOAT16:
        return row_dots_of<UnquantisedRows<BFLOAT16>>(format);
      default:
        return row_dots_of<UnquantisedRows<FLOAT32>>(format);
    }
  });
}

}  // namespace
}  // namespace moeflux::cpu
