// Products of rows with tokens by fixed point: panels, their scales, and the instructions that multiply them.
#pragma once
#include "cpu/fixed_point_codes_avx512.h"

namespace moeflux::cpu {
namespace {

// Multiplies panels with tokens by dot products of vectors.
struct VectorProducts {
  static constexpr std::size_t n_panels = 1;
  static constexpr std::size_t least_tokens = 0;

  // totals[t] of panel p are at totals + (p * most_tokens + t) * panel_rows.
  template <int digits>
  static void multiply(const FixedPointColumns& columns, const ColumnBlock& block, const Panel* panels,
                       const PanelScales* scales, std::size_t n, const std::byte* const* x, std::size_t n_tokens,
                       float* totals) {
    for (std::size_t p = 0; p < n; ++p, totals += RowDots::max_tokens * panel_rows) {
      std::size_t t = 0;
      for (; t + 4 <= n_tokens; t += 4) {
        multiply<digits, 4>(columns, block, panels[p], scales[p], x + t, totals + t * panel_rows);
      }
      for (; t < n_tokens; ++t) {
        multiply<digits, 1>(columns, block, panels[p], scales[p], x + t, totals + t * panel_rows);
      }
    }
  }

  template <int digits, int tokens>
  static void multiply(const FixedPointColumns& columns, const ColumnBlock& block, const Panel& panel,
                       const PanelScales& panel_scales, const std::byte* const* x, float* totals) {
    const std::size_t n_groups = columns.n_groups();
    const std::size_t quads_per_group = columns.group_size / 4;
    const __m512i* quads = reinterpret_cast<const __m512i*>(panel.codes);
    const std::byte* digits_of[tokens];
    const float* units[tokens];
    __m512 total[tokens];
    unroll<tokens>([&]<int t>() {
      digits_of[t] = x[t] + columns.digits_offset(block.first_col);
      units[t] = columns.units(x[t]) + block.first_group;
      total[t] = _mm512_loadu_ps(totals + t * panel_rows);
    });
    for (std::size_t g = 0; g < block.n_cols / columns.group_size; ++g) {
      __m512i sums[tokens][digits];
      unroll<tokens>([&]<int t>() { unroll<digits>([&]<int d>() { sums[t][d] = _mm512_setzero_si512(); }); });
      for (std::size_t q = g * quads_per_group; q < (g + 1) * quads_per_group; ++q) {
        const __m512i codes = _mm512_load_si512(quads + q);
        unroll<tokens>([&]<int t>() {
          unroll<digits>([&]<int d>() {
            const __m512i quad = _mm512_set1_epi32(load_quad(digits_of[t] + d * panel_cols + 4 * q));
            sums[t][d] = _mm512_dpbusd_epi32(sums[t][d], codes, quad);
          });
        });
      }
      const __m512 scales = _mm512_load_ps(panel_scales.scales[block.group_in_span + g]);
      const __m512 biases = _mm512_load_ps(panel_scales.biases[block.group_in_span + g]);
      unroll<tokens>([&]<int t>() {
        total[t] = add_group<digits>(total[t], sums[t], scales, biases, units[t][g], units[t][n_groups + g]);
      });
    }
    unroll<tokens>([&]<int t>() { _mm512_storeu_ps(totals + t * panel_rows, total[t]); });
  }
};

template <int bits, int digits, typename Products>
struct FixedPointRows {
  static std::size_t prepared_nbytes(const RowDots& format, std::size_t cols) {
    return FixedPointColumns{cols, format.format >> 8 & 0xffff, digits}.prepared_nbytes();
  }

  static void dot(const RowDots& format, const Weights& weights, std::size_t first_row, std::size_t n_rows,
                  const std::byte* const* x, std::size_t n_tokens, float* const* out) {
    if (n_tokens < Products::least_tokens) {
      FixedPointRows<bits, digits, VectorProducts>::dot(format, weights, first_row, n_rows, x, n_tokens, out);
      return;
    }
    constexpr std::size_t rows_at_once = Products::n_panels * panel_rows;
    for (std::size_t row = 0; row < n_rows; row += rows_at_once) {
      float* row_out[RowDots::max_tokens];
      for (std::size_t t = 0; t < n_tokens; ++t) row_out[t] = out[t] + row;
      const std::size_t count = n_rows - row < rows_at_once ? n_rows - row : rows_at_once;
      panels(format, weights, first_row + row, count, x, n_tokens, row_out);
    }
  }

  static void panels(const RowDots& format, const Weights& weights, std::size_t first_row, std::size_t n_rows,
                     const std::byte* const* x, std::size_t n_tokens, float* const* out) {
    const FixedPointColumns columns{weights.cols, format.format >> 8 & 0xffff, digits};
    const std::size_t n = (n_rows + panel_rows - 1) / panel_rows, n_groups = columns.n_groups();
    Panel panels[Products::n_panels];
    PanelScales scales[Products::n_panels];
    alignas(64) float totals[Products::n_panels][RowDots::max_tokens][panel_rows];
    const std::byte* codes[Products::n_panels][panel_rows];
    for (std::size_t p = 0; p < n; ++p) {
      for (std::size_t r = 0; r < panel_rows; ++r) {
        codes[p][r] = weights.weight + row_of(first_row, n_rows, p, r) * (columns.cols / 8 * bits);
      }
      for (std::size_t t = 0; t < n_tokens; ++t) _mm512_store_ps(totals[p][t], _mm512_setzero_ps());
    }
    for (std::size_t span = 0; span < n_groups; span += span_groups) {
      const std::size_t end = span + span_groups < n_groups ? (span + span_groups) * columns.group_size : columns.cols;
      for (std::size_t p = 0; p < n; ++p) load_scales(format, weights, first_row, n_rows, p, span, scales[p]);
      if (n_tokens == 1) prefetch_scales(format, weights, first_row, span);
      for (std::size_t c = span * columns.group_size; c < end; c += panel_cols) {
        const std::size_t n_cols = end - c < panel_cols ? end - c : panel_cols, group = c / columns.group_size;
        const ColumnBlock block{c, n_cols, group, group - span};
        if (Products::n_panels == 1 && n_tokens == 1) {
          multiply_one(columns, block, codes[0], scales[0], x[0], totals[0][0]);
          continue;
        }
        for (std::size_t p = 0; p < n; ++p) FixedPointCodes<bits>::unpack(codes[p], c, n_cols, panels[p]);
        Products::template multiply<digits>(columns, block, panels, scales, n, x, n_tokens, totals[0][0]);
      }
    }
    for (std::size_t p = 0; p < n; ++p) {
      const std::size_t left = n_rows - p * panel_rows;
      const __mmask16 kept = static_cast<__mmask16>(left < panel_rows ? (1u << left) - 1 : 0xffff);
      for (std::size_t t = 0; t < n_tokens; ++t) {
        _mm512_mask_storeu_ps(out[t] + p * panel_rows, kept, _mm512_load_ps(totals[p][t]));
      }
    }
  }

  static void multiply_one(const FixedPointColumns& columns, const ColumnBlock& block,
                           const std::byte* const (&rows)[panel_rows], const PanelScales& scales, const std::byte* x,
                           float* totals) {
    using Codes = FixedPointCodes<bits>;
    __m512 total = _mm512_load_ps(totals);
    if (columns.group_size == 32) {
      total = Codes::template multiply<digits, 32>(columns, block, rows, scales, x, total);
    } else if (columns.group_size == 64) {
      total = Codes::template multiply<digits, 64>(columns, block, rows, scales, x, total);
    } else {
      total = Codes::template multiply<digits, 128>(columns, block, rows, scales, x, total);
    }
    _mm512_store_ps(totals, total);
  }

  // Rows beyond the last repeat it; their results are dropped.
  static std::size_t row_of(std::size_t first_row, std::size_t n_rows, std::size_t panel, std::size_t r) {
    const std::size_t row = panel * panel_rows + r;
    return first_row + (row < n_rows ? row : n_rows - 1);
  }

  static void load_scales(const RowDots& format, const Weights& weights, std::size_t first_row, std::size_t n_rows,
                          std::size_t panel, std::size_t group, PanelScales& out) {
    const std::size_t n_groups = weights.cols / (format.format >> 8 & 0xffff);
    const auto load = [&]<Dtype dtype>() {
      load_transposed<dtype>(weights.scales, weights.rows, n_groups, first_row, n_rows, panel, group, out.scales);
      load_transposed<dtype>(weights.biases, weights.rows, n_groups, first_row, n_rows, panel, group, out.biases);
    };
    switch (static_cast<Dtype>(format.format >> 24)) {
      case BFLOAT16:
        return load.template operator()<BFLOAT16>();
      case FLOAT16:
        return load.template operator()<FLOAT16>();
      default:
        return load.template operator()<FLOAT32>();
    }
  }

  // Asks for the scales and biases of the rows that are asked for.
  static void prefetch_scales(const RowDots& format, const Weights& weights, std::size_t first_row, std::size_t span) {
    const std::size_t n_groups = weights.cols / (format.format >> 8 & 0xffff);
    const std::size_t nbytes = dtype_nbytes(static_cast<Dtype>(format.format >> 24));
    const std::size_t rows_ahead = prefetch_distance / (weights.cols / 8 * bits) + 1;
    for (std::size_t r = 0; r < panel_rows; ++r) {
      const std::size_t offset = ((first_row + rows_ahead + r) * n_groups + span) * nbytes;
      prefetch(weights.scales + offset);
      prefetch(weights.biases + offset);
    }
  }

  template <Dtype dtype>
  static void load_transposed(const std::byte* scales, std::size_t rows, std::size_t n_groups, std::size_t first_row,
                              std::size_t n_rows, std::size_t panel, std::size_t group,
                              float (&out)[span_groups][panel_rows]) {
    __m512i of_row[panel_rows];
    unroll<panel_rows>([&]<int r>() {
      const std::size_t row = row_of(first_row, n_rows, panel, r);
      const std::byte* first = scales + row * n_groups * dtype_nbytes(dtype);
      of_row[r] = _mm512_castps_si512(load_elements<dtype>(first, group, n_groups, (rows - row) * n_groups));
    });
    transpose(of_row);
    unroll<span_groups>([&]<int g>() { _mm512_store_si512(out[g], of_row[g]); });
  }
};

// The dot products of an affine format by fixed point, of others as they are. Three digits of a single token pay for 2
// and 4 bits only: other codes take more instructions to unpack than float32 products save.
template <int digits, typename Products>
RowDots with_fixed_point(RowDots dots) {
  return with_bits(dots.format, [&]<int bits>() {
    if constexpr (bits == 2 || bits == 4 || (bits != 0 && digits == 1)) {
      using Rows = FixedPointRows<bits, digits, Products>;
      dots.prepared_nbytes = Rows::prepared_nbytes;
      dots.prepare = prepare_fixed_point<bits, digits>;
      dots.dot = Rows::dot;
    }
    return dots;
  });
}

}  // namespace
}  // namespace moeflux::cpu
