// AVX-512 (F, BW, DQ, VL) vectors of 16 lanes; the interface is described in simd.h.
#pragma once
#include <immintrin.h>

#include "cpu/simd.h"

namespace moeflux::cpu {
namespace {

struct Simd {
  static constexpr int lanes = 16;
  using Float = __m512;
  using Integer = __m512i;
  using GroupIndex = __m512i;

  static Float zero() { return _mm512_setzero_ps(); }
  static Float broadcast(float value) { return _mm512_set1_ps(value); }
  static Float load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Float v) { _mm512_storeu_ps(p, v); }
  static Float load_bfloat16(const std::byte* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_half(p)), 16));
  }
  static Float load_float16(const std::byte* p) { return _mm512_cvtph_ps(load_half(p)); }

  static Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
  static Float subtract(Float a, Float b) { return _mm512_sub_ps(a, b); }
  static Float multiply(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static Float divide(Float a, Float b) { return _mm512_div_ps(a, b); }
  static Float minimum(Float bound, Float v) { return _mm512_min_ps(bound, v); }
  static Float maximum(Float bound, Float v) { return _mm512_max_ps(bound, v); }
  static Float multiply_add(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }

  static float sum(Float v) {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1)));
  }

  // out[i][j] = sum(v[i][j]), with additions in the same order.
  static void sums(const Float (&v)[4][4], float (&out)[4][4]) {
    const auto halves = [](Float a, Float b) {
      return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    };
    const auto quarters = [&](const Float(&four)[4]) {
      const Float a = halves(four[0], four[1]), b = halves(four[2], four[3]);
      return _mm512_castps_pd(_mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd)));
    };
    const auto pairs = [](__m512d a, __m512d b) {
      return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    };
    const Float a = pairs(quarters(v[0]), quarters(v[1])), b = pairs(quarters(v[2]), quarters(v[3]));
    const Float by_column = _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
    const Integer order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_ps(out[0], _mm512_permutexvar_ps(order, by_column));
  }

  static Integer nearest(Float v) { return _mm512_cvtps_epi32(v); }
  static Float to_float(Integer v) { return _mm512_cvtepi32_ps(v); }
  static Float power_of_two(Integer exponent) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(exponent, _mm512_set1_epi32(127)), 23));
  }

  static Float first(std::size_t n, Float v) { return _mm512_maskz_mov_ps(static_cast<__mmask16>((1u << n) - 1), v); }
  static Float even(Float a, Float b) { return _mm512_permutex2var_ps(a, _mm512_slli_epi32(lane_numbers(), 1), b); }
  static Float odd(Float a, Float b) {
    return _mm512_permutex2var_ps(a, _mm512_add_epi32(_mm512_slli_epi32(lane_numbers(), 1), _mm512_set1_epi32(1)), b);
  }

  template <int bits>
  static Integer spread(const std::byte* p) {
    if constexpr (bits == 2) return _mm512_cvtepu16_epi32(load_half(p));
    if constexpr (bits == 4 || bits == 8) return _mm512_loadu_si512(p);
    if constexpr (bits == 3 || bits == 6) {
      const __m512i quads = _mm512_setr_epi32(0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11);
      const __m128i triples = _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1);
      const __m512i words = _mm512_permutexvar_epi32(quads, join(load_half(p), _mm_loadu_si128(quarter(p + 32))));
      return _mm512_shuffle_epi8(words, _mm512_broadcast_i32x4(triples));
    }
    if constexpr (bits == 5) {
      // Four codes are 20 bits: even lanes start on a byte, odd lanes four bits later.
      const __m512i quads = _mm512_setr_epi32(0, 1, 2, 2, 2, 3, 4, 4, 5, 6, 7, 7, 7, 8, 9, 9);
      const __m128i even = _mm_setr_epi8(0, 1, 2, -1, 2, 3, 4, -1, 5, 6, 7, -1, 7, 8, 9, -1);
      const __m128i odd = _mm_setr_epi8(2, 3, 4, -1, 4, 5, 6, -1, 7, 8, 9, -1, 9, 10, 11, -1);
      const __m512i bytes =
          _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_setr_m128i(even, odd)), _mm256_setr_m128i(even, odd), 1);
      const __m512i words = _mm512_permutexvar_epi32(quads, join(load_half(p), _mm_loadl_epi64(quarter(p + 32))));
      return _mm512_srlv_epi32(_mm512_shuffle_epi8(words, bytes), _mm512_set1_epi64(0x400000000));
    }
  }

  template <int bits, int i>
  static Float code(Integer words) {
    if constexpr (code_is_shifted(bits, i)) return to_float(_mm512_srli_epi32(words, i * bits));
    return to_float(_mm512_and_si512(words, _mm512_set1_epi32(code_mask(bits, i))));
  }

  template <int codes>
  static GroupIndex group_index(std::uint32_t column, int shift) {
    const __m512i columns = _mm512_mullo_epi32(lane_numbers(), _mm512_set1_epi32(codes));
    return _mm512_srl_epi32(_mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(column)), columns),
                            _mm_cvtsi32_si128(shift));
  }
  static Float pick(Float table, GroupIndex index) { return _mm512_permutexvar_ps(index, table); }

 private:
  // Two loads are many times faster than one masked load where the weights come from memory.
  static __m512i join(__m256i low, __m128i high) { return _mm512_inserti32x4(_mm512_castsi256_si512(low), high, 2); }
  static const __m128i* quarter(const std::byte* p) { return reinterpret_cast<const __m128i*>(p); }
  static __m512i lane_numbers() { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
  static __m256i load_half(const std::byte* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
};

}  // namespace
}  // namespace moeflux::cpu
