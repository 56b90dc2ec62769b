// Dot products of affine weight rows with activations held as integers, for AVX-512 with VNNI.
//
// Every group of activations becomes integers of `digits` bytes and a unit, x = unit * integer: three bytes keep what a
// float32 sum keeps, one byte does not. Sums of codes times integers are exact, so that neither the number of rows nor
// that of tokens nor the instructions that multiply them show in the result. Groups are added in ascending order:
// out = sum_group scale * (sum code * integer) * unit + bias * (sum integer) * unit.
//
// Lanes are 16 rows of weights: their words are transposed once, unpacked to bytes and used by all tokens.
#pragma once
#include <immintrin.h>

#include "cpu/fixed_point_unit.h"
#include "cpu/functions.h"
#include "cpu/simd_math.h"

namespace moeflux::cpu {
namespace {

constexpr std::size_t panel_rows = 16;
constexpr std::size_t panel_cols = 512;
// Groups whose scales one vector holds.
constexpr std::size_t span_groups = 16;

// Sixteen rows of a block of columns: quads of codes as bytes. Row r of quad q is codes[q][r]; which four columns a
// quad holds is the format's business.
struct Panel {
  alignas(64) std::uint8_t codes[panel_cols / 4][panel_rows][4];
};

// Scales and biases of sixteen rows for a span of groups.
struct PanelScales {
  alignas(64) float scales[span_groups][panel_rows];
  alignas(64) float biases[span_groups][panel_rows];
};

// What the columns of one product have in common.
struct FixedPointColumns {
  std::size_t cols;
  std::size_t group_size;
  int digits;

  std::size_t n_groups() const { return cols / group_size; }
  std::size_t digits_nbytes() const { return digits * round_up(cols, panel_cols); }
  std::size_t prepared_nbytes() const { return digits_nbytes() + round_up(2 * n_groups() * sizeof(float), 64); }
  // Of the panel that starts at `first_col`, all columns of the first digit, then of the next.
  std::size_t digits_offset(std::size_t first_col) const { return digits * first_col; }
  // Units of all groups of a prepared row; behind them sum(integer) * unit.
  const float* units(const std::byte* prepared) const {
    return reinterpret_cast<const float*>(prepared + digits_nbytes());
  }
};

// A block of columns within a product: where it starts, and its groups within the span.
struct ColumnBlock {
  std::size_t first_col;
  std::size_t n_cols;
  std::size_t first_group;    // of the row
  std::size_t group_in_span;  // of first_group
};

inline int load_quad(const std::byte* p) {
  int quad;
  __builtin_memcpy(&quad, p, sizeof quad);
  return quad;
}

// total + scale * sum * unit + bias * (sum of the group's activations), with the sum given by its digits.
template <int digits>
inline __m512 add_group(__m512 total, const __m512i (&sums)[digits], __m512 scales, __m512 biases, float unit,
                        float activations) {
  __m512 sum = _mm512_cvtepi32_ps(sums[0]);
  if constexpr (digits == 3) {
    const __m512i high = _mm512_add_epi32(_mm512_slli_epi32(sums[2], 8), sums[1]);
    sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), _mm512_set1_ps(256.0f), sum);
  }
  total = _mm512_fmadd_ps(_mm512_mul_ps(sum, scales), _mm512_set1_ps(unit), total);
  return _mm512_fmadd_ps(biases, _mm512_set1_ps(activations), total);
}

}  // namespace
}  // namespace moeflux::cpu
