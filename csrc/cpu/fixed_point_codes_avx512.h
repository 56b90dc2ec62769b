// Codes of sixteen rows: transposed, unpacked to bytes, and activations in the order that unpacking leaves.
#pragma once
#include "cpu/fixed_point_avx512.h"
#include "cpu/matmul_simd.h"
#include "cpu/prefetch.h"

namespace moeflux::cpu {
namespace {

// w[j] lane r = word j of row r, where w[r] lane j was.
inline __attribute__((always_inline)) void transpose(__m512i (&w)[16]) {
  __m512i a[16], b[16];
  unroll<8>([&]<int i>() {
    a[2 * i] = _mm512_unpacklo_epi32(w[2 * i], w[2 * i + 1]);
    a[2 * i + 1] = _mm512_unpackhi_epi32(w[2 * i], w[2 * i + 1]);
  });
  unroll<4>([&]<int i>() {
    b[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
    b[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
  });
  unroll<4>([&]<int k>() {
    const __m512i even_low = _mm512_shuffle_i32x4(b[k], b[4 + k], 0x88);
    const __m512i even_high = _mm512_shuffle_i32x4(b[8 + k], b[12 + k], 0x88);
    const __m512i odd_low = _mm512_shuffle_i32x4(b[k], b[4 + k], 0xdd);
    const __m512i odd_high = _mm512_shuffle_i32x4(b[8 + k], b[12 + k], 0xdd);
    w[k] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
    w[4 + k] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
    w[8 + k] = _mm512_shuffle_i32x4(even_low, even_high, 0xdd);
    w[12 + k] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
  });
}

template <int bits>
struct FixedPointCodes {
  // Codes that end with a word are taken sixteen words at a time, others in runs of 32, which end with a word.
  static constexpr bool whole_words = 32 % bits == 0;
  static constexpr int quads_per_word = 8 / bits;
  static constexpr int quads_per_run = whole_words ? 16 * quads_per_word : 8;
  // Of all rows together.
  static constexpr std::size_t quad_nbytes = panel_rows * 4 * bits / 8;

  // Order of the columns of 16 activations that the quads of 16 codes have.
  static __m128i in_quad_order(__m128i bytes) {
    if constexpr (bits == 4) {
      return _mm_shuffle_epi8(bytes, _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
    }
    if constexpr (bits == 2) {
      return _mm_shuffle_epi8(bytes, _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    }
    return bytes;
  }

  // The panel of `n_cols` columns from `first_col` on; rows[r] is where the codes of row r begin.
  static void unpack(const std::byte* const (&rows)[panel_rows], std::size_t first_col, std::size_t n_cols,
                     Panel& panel) {
    __m512i* quads = reinterpret_cast<__m512i*>(panel.codes);
    for_each_run(rows, first_col, n_cols, [&](const __m512i* words, std::size_t first_quad, std::size_t) {
      unroll<quads_per_run>([&]<int q>() { _mm512_store_si512(quads + first_quad + q, quad<q>(words)); });
    });
  }

  // Adds the products of one token with a block of columns to the totals of sixteen rows, without a panel. Asks for the
  // rows that follow in the order of memory and evenly: requests in bursts leave the memory idle between them.
  template <int digits, int group_size>
  static __m512 multiply(const FixedPointColumns& columns, const ColumnBlock& block,
                         const std::byte* const (&rows)[panel_rows], const PanelScales& panel_scales,
                         const std::byte* x, __m512 total) {
    constexpr std::size_t quads_per_group = group_size / 4;
    constexpr int quads_at_once = quads_per_group < quads_per_run ? quads_per_group : quads_per_run;
    const std::size_t n_groups = columns.n_groups();
    const std::byte* digits_of_block = x + columns.digits_offset(block.first_col);
    const float* units = columns.units(x) + block.first_group;
    const auto* scales = panel_scales.scales + block.group_in_span;
    const auto* biases = panel_scales.biases + block.group_in_span;
    std::size_t g = 0;
    __m512i sums[digits];
    unroll<digits>([&]<int d>() { sums[d] = _mm512_setzero_si512(); });
    for_each_run(
        rows, block.first_col, block.n_cols, [&](const __m512i* words, std::size_t first_quad, std::size_t n_quads) {
          const std::byte* digits_of = digits_of_block + 4 * first_quad;
          const std::byte* ahead = rows[0] + prefetch_distance + (block.first_col / 4 + first_quad) * quad_nbytes;
          unroll<quads_per_run / quads_at_once>([&]<int part>() {
            if (part * quads_at_once >= n_quads) return;
            unroll<quads_at_once>([&]<int i>() {
              constexpr int q = part * quads_at_once + i;
              const __m512i codes = quad<q>(words);
              if constexpr (q * quad_nbytes % 64 < quad_nbytes) prefetch(ahead + q * quad_nbytes);
              unroll<digits>([&]<int d>() {
                const __m512i integers = _mm512_set1_epi32(load_quad(digits_of + d * panel_cols + 4 * q));
                sums[d] = _mm512_dpbusd_epi32(sums[d], codes, integers);
              });
            });
            if ((first_quad + (part + 1) * quads_at_once) % quads_per_group != 0) return;
            total = add_group<digits>(total, sums, _mm512_load_ps(scales[g]), _mm512_load_ps(biases[g]), units[g],
                                      units[n_groups + g]);
            unroll<digits>([&]<int d>() { sums[d] = _mm512_setzero_si512(); });
            ++g;
          });
        });
    return total;
  }

 private:
  // Sixteen words of every row, zero from n_words on.
  static inline __attribute__((always_inline)) void load_words(const std::byte* const (&rows)[panel_rows],
                                                               std::size_t offset, std::size_t n_words,
                                                               __m512i (&w)[16]) {
    if (n_words >= 16) {
      unroll<16>([&]<int r>() { w[r] = _mm512_loadu_si512(rows[r] + offset); });
    } else {
      const __mmask16 kept = static_cast<__mmask16>((1u << n_words) - 1);
      unroll<16>([&]<int r>() { w[r] = _mm512_maskz_loadu_epi32(kept, rows[r] + offset); });
    }
  }

  // Calls body(words, first quad, quads that are left) for every run.
  template <typename Body>
  static inline __attribute__((always_inline)) void for_each_run(const std::byte* const (&rows)[panel_rows],
                                                                 std::size_t first_col, std::size_t n_cols,
                                                                 const Body& body) {
    const std::size_t n_words = n_cols * bits / 32, offset = first_col / 8 * bits;
    if constexpr (whole_words) {
      for (std::size_t word = 0; word < n_words; word += 16) {
        __m512i words[16];
        load_words(rows, offset + word * 4, n_words - word, words);
        transpose(words);
        body(words, word * quads_per_word, (n_words - word) * quads_per_word);
      }
    } else {
      __m512i words[16 * bits];
      for (std::size_t word = 0; word < n_words; word += 16) {
        __m512i w[16];
        load_words(rows, offset + word * 4, n_words - word, w);
        transpose(w);
        unroll<16>([&]<int j>() { words[word + j] = w[j]; });
      }
      for (std::size_t run = 0; run < n_cols / 32; ++run) body(words + run * bits, 8 * run, n_cols / 4 - 8 * run);
    }
  }

  // Four codes of every row.
  template <int q>
  static __m512i quad(const __m512i* run) {
    if constexpr (whole_words) {
      const __m512i mask = _mm512_set1_epi8(static_cast<char>((1 << bits) - 1));
      return _mm512_and_si512(_mm512_srli_epi32(run[q / quads_per_word], q % quads_per_word * bits), mask);
    } else {
      return straddling_quad<q>(run);
    }
  }

  // Bits of a where the mask has ones, elsewhere those of b.
  static __m512i select(int mask, __m512i a, __m512i b) {
    return _mm512_ternarylogic_epi32(_mm512_set1_epi32(mask), a, b, 0xca);
  }

  // Codes 4 q .. 4 q + 3 of a run of 32 that lies in `bits` words.
  template <int q>
  static __m512i straddling_quad(const __m512i* run) {
    constexpr int bit = 4 * q * bits, word = bit / 32, shift = bit % 32;
    __m512i window = _mm512_srli_epi32(run[word], shift);
    if constexpr (shift + 4 * bits > 32) {
      window = _mm512_or_si512(window, _mm512_slli_epi32(run[word + 1], 32 - shift));
    }
    // Two codes to each half of a word, then one to each byte.
    const __m512i halves = select(0x0000ffff, window, _mm512_slli_epi32(window, 16 - 2 * bits));
    const __m512i bytes = select(0x00ff00ff, halves, _mm512_slli_epi32(halves, 8 - bits));
    return _mm512_and_si512(bytes, _mm512_set1_epi8(static_cast<char>((1 << bits) - 1)));
  }
};

// Integers of `digits` bytes, each digit in -128 .. 127 and in a plane of its own.
template <int bits, int digits>
void prepare_fixed_point(const RowDots& format, const float* x, std::size_t cols, std::byte* prepared) {
  const FixedPointColumns columns{cols, format.format >> 8 & 0xffff, digits};
  float* units = const_cast<float*>(columns.units(prepared));
  const __m512i digit_offset = _mm512_set1_epi32(0x808080);
  for (std::size_t g = 0; g < columns.n_groups(); ++g) {
    const std::size_t first = g * columns.group_size;
    __m512i largest = _mm512_setzero_si512();
    for (std::size_t c = first; c < first + columns.group_size; c += 16) {
      largest = _mm512_max_epu32(largest, _mm512_and_si512(_mm512_loadu_si512(x + c), _mm512_set1_epi32(0x7fffffff)));
    }
    const FixedPointUnit unit(digits, _mm512_reduce_max_epu32(largest));
    __m512i sum = _mm512_setzero_si512();
    for (std::size_t c = first; c < first + columns.group_size; c += 16) {
      __m512i integers = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + c), _mm512_set1_ps(unit.inverse)));
      sum = _mm512_add_epi32(sum, integers);
      if constexpr (digits == 3) {
        integers = _mm512_xor_si512(_mm512_add_epi32(integers, digit_offset), digit_offset);
      }
      unroll<digits>([&]<int d>() {
        const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_srli_epi32(integers, 8 * d));
        std::byte* panel = prepared + columns.digits_offset(c / panel_cols * panel_cols) + d * panel_cols;
        _mm_storeu_si128(reinterpret_cast<__m128i*>(panel + c % panel_cols),
                         FixedPointCodes<bits>::in_quad_order(bytes));
      });
    }
    units[g] = unit.value;
    units[columns.n_groups() + g] = static_cast<float>(_mm512_reduce_add_epi32(sum)) * unit.value;
  }
}

}  // namespace
}  // namespace moeflux::cpu
