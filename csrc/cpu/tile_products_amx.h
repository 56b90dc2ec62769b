// Multiplies panels with sixteen tokens at a time in the tile registers of AMX.
#pragma once
#include "cpu/fixed_point_rows_avx512.h"

namespace moeflux::cpu {
namespace {

constexpr std::size_t tile_tokens = 16;

// Tiles 0 to 2 and 3 to 5 take sums of digits in turn, 6 holds a digit of tokens, 7 holds codes.
struct alignas(64) TileConfiguration {
  explicit TileConfiguration(std::size_t depth) {
    for (int sums = 0; sums < 6; ++sums) set(sums, tile_tokens, 64);
    set(6, tile_tokens, depth);
    set(7, depth / 4, 64);
  }
  void set(int tile, std::size_t n_rows, std::size_t n_bytes) {
    row_nbytes[tile] = static_cast<std::uint16_t>(n_bytes);
    rows[tile] = static_cast<std::uint8_t>(n_rows);
  }

  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_nbytes[16] = {};
  std::uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfiguration) == 64);

template <int digits>
struct TileSums {
  alignas(64) __m512i of[digits][tile_tokens];
};

// Digits of up to sixteen tokens for one block of columns, as tile loads want them: rows at one distance.
template <int digits>
class TileTokens {
 public:
  TileTokens(const FixedPointColumns& columns, const ColumnBlock& block, const std::byte* const* x, std::size_t n) {
    const std::size_t n_groups = columns.n_groups(), offset = columns.digits_offset(block.first_col);
    const std::ptrdiff_t distance = n == tile_tokens ? x[1] - x[0] : 0;
    bool in_place = n == tile_tokens;
    for (std::size_t t = 0; t < tile_tokens; ++t) {
      const std::byte* row = x[t < n ? t : n - 1];
      units[t] = columns.units(row) + block.first_group;
      sums[t] = units[t] + n_groups;
      in_place = in_place && row == x[0] + static_cast<std::ptrdiff_t>(t) * distance;
    }
    if (in_place) {
      stride = distance;
      for (int d = 0; d < digits; ++d) planes[d] = x[0] + offset + d * panel_cols;
      return;
    }
    stride = panel_cols;
    for (int d = 0; d < digits; ++d) {
      planes[d] = gathered[d][0];
      for (std::size_t t = 0; t < n; ++t) {
        __builtin_memcpy(gathered[d][t], x[t] + offset + d * panel_cols, block.n_cols);
      }
    }
  }

  const std::byte* planes[digits];
  std::ptrdiff_t stride;
  const float* units[tile_tokens];
  const float* sums[tile_tokens];

 private:
  alignas(64) std::byte gathered[digits][tile_tokens][panel_cols];
};

struct TileProducts {
  static constexpr std::size_t n_panels = 4;
  // From how many tokens on tiles are faster than vectors.
  static constexpr std::size_t least_tokens = 4;

  template <int digits>
  static void multiply(const FixedPointColumns& columns, const ColumnBlock& block, const Panel* panels,
                       const PanelScales* scales, std::size_t n, const std::byte* const* x, std::size_t n_tokens,
                       float* totals) {
    const TileConfiguration configuration(columns.group_size < 64 ? columns.group_size : 64);
    _tile_loadconfig(&configuration);
    for (std::size_t t = 0; t < n_tokens; t += tile_tokens) {
      const std::size_t count = n_tokens - t < tile_tokens ? n_tokens - t : tile_tokens;
      const TileTokens<digits> tokens(columns, block, x + t, count);
      for (std::size_t p = 0; p < n; ++p) {
        multiply(columns, block, panels[p], scales[p], tokens, totals + (p * RowDots::max_tokens + t) * panel_rows);
      }
    }
    _tile_release();
  }

  // The tiles sum the next group while vectors add the last one.
  template <int digits>
  static void multiply(const FixedPointColumns& columns, const ColumnBlock& block, const Panel& panel,
                       const PanelScales& panel_scales, const TileTokens<digits>& tokens, float* totals) {
    const std::size_t size = columns.group_size, n_groups = block.n_cols / size;
    TileSums<digits> even, odd;
    __m512 total[tile_tokens];
    unroll<tile_tokens>([&]<int t>() { total[t] = _mm512_loadu_ps(totals + t * panel_rows); });
    const auto add = [&](const TileSums<digits>& sums, std::size_t g) {
      const __m512 scales = _mm512_load_ps(panel_scales.scales[block.group_in_span + g]);
      const __m512 biases = _mm512_load_ps(panel_scales.biases[block.group_in_span + g]);
      unroll<tile_tokens>([&]<int t>() {
        __m512i digit_sums[digits];
        unroll<digits>([&]<int d>() { digit_sums[d] = sums.of[d][t]; });
        total[t] = add_group<digits>(total[t], digit_sums, scales, biases, tokens.units[t][g], tokens.sums[t][g]);
      });
    };
    sum_even<digits>(size, panel, tokens, 0, even);
    std::size_t g = 0;
    for (; g + 2 <= n_groups; g += 2) {
      sum_odd<digits>(size, panel, tokens, (g + 1) * size, odd);
      add(even, g);
      if (g + 2 < n_groups) sum_even<digits>(size, panel, tokens, (g + 2) * size, even);
      add(odd, g + 1);
    }
    if (g < n_groups) add(even, g);
    unroll<tile_tokens>([&]<int t>() { _mm512_storeu_ps(totals + t * panel_rows, total[t]); });
  }

  // sums.of[d][t] = codes of the group that starts at column `first` of the panel . digit d of token t. The numbers of
  // tiles are part of the instructions, so that there is one function for each half of them.
  template <int digits>
  static void sum_even(std::size_t group_size, const Panel& panel, const TileTokens<digits>& tokens, std::size_t first,
                       TileSums<digits>& sums) {
    // The tile intrinsics do not tell the compiler what they read.
    asm volatile("" ::: "memory");
    _tile_zero(0);
    if constexpr (digits == 3) {
      _tile_zero(1);
      _tile_zero(2);
    }
    for (std::size_t c = first; c < first + group_size; c += 64) {
      _tile_loadd(7, panel.codes[c / 4], 64);
      _tile_loadd(6, tokens.planes[0] + c, tokens.stride);
      _tile_dpbsud(0, 6, 7);
      if constexpr (digits == 3) {
        _tile_loadd(6, tokens.planes[1] + c, tokens.stride);
        _tile_dpbsud(1, 6, 7);
        _tile_loadd(6, tokens.planes[2] + c, tokens.stride);
        _tile_dpbsud(2, 6, 7);
      }
    }
    _tile_stored(0, sums.of[0], 64);
    if constexpr (digits == 3) {
      _tile_stored(1, sums.of[1], 64);
      _tile_stored(2, sums.of[2], 64);
    }
  }

  template <int digits>
  static void sum_odd(std::size_t group_size, const Panel& panel, const TileTokens<digits>& tokens, std::size_t first,
                      TileSums<digits>& sums) {
    asm volatile("" ::: "memory");
    _tile_zero(3);
    if constexpr (digits == 3) {
      _tile_zero(4);
      _tile_zero(5);
    }
    for (std::size_t c = first; c < first + group_size; c += 64) {
      _tile_loadd(7, panel.codes[c / 4], 64);
      _tile_loadd(6, tokens.planes[0] + c, tokens.stride);
      _tile_dpbsud(3, 6, 7);
      if constexpr (digits == 3) {
        _tile_loadd(6, tokens.planes[1] + c, tokens.stride);
        _tile_dpbsud(4, 6, 7);
        _tile_loadd(6, tokens.planes[2] + c, tokens.stride);
        _tile_dpbsud(5, 6, 7);
      }
    }
    _tile_stored(3, sums.of[0], 64);
    if constexpr (digits == 3) {
      _tile_stored(4, sums.of[1], 64);
      _tile_stored(5, sums.of[2], 64);
    }
  }
};

}  // namespace
}  // namespace moeflux::cpu
