// AVX2, FMA and F16C vectors of 8 lanes; the interface is described in simd.h.
#pragma once
#include <immintrin.h>

#include "cpu/simd.h"

namespace moeflux::cpu {
namespace {

struct Simd {
  static constexpr int lanes = 8;
  using Float = __m256;
  using Integer = __m256i;
  using GroupIndex = __m256i;

  static Float zero() { return _mm256_setzero_ps(); }
  static Float broadcast(float value) { return _mm256_set1_ps(value); }
  static Float load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Float v) { _mm256_storeu_ps(p, v); }
  static Float load_bfloat16(const std::byte* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_half(p)), 16));
  }
  static Float load_float16(const std::byte* p) { return _mm256_cvtph_ps(load_half(p)); }

  static Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
  static Float subtract(Float a, Float b) { return _mm256_sub_ps(a, b); }
  static Float multiply(Float a, Float b) { return _mm256_mul_ps(a, b); }
  static Float divide(Float a, Float b) { return _mm256_div_ps(a, b); }
  static Float minimum(Float bound, Float v) { return _mm256_min_ps(bound, v); }
  static Float maximum(Float bound, Float v) { return _mm256_max_ps(bound, v); }
  static Float multiply_add(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }

  static float sum(Float v) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
  }

  static Integer nearest(Float v) { return _mm256_cvtps_epi32(v); }
  static Float to_float(Integer v) { return _mm256_cvtepi32_ps(v); }
  static Float power_of_two(Integer exponent) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(exponent, _mm256_set1_epi32(127)), 23));
  }

  static Float first(std::size_t n, Float v) {
    const __m256i kept = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane_numbers());
    return _mm256_and_ps(v, _mm256_castsi256_ps(kept));
  }
  static Float even(Float a, Float b) { return in_order(_mm256_shuffle_ps(a, b, 0x88)); }
  static Float odd(Float a, Float b) { return in_order(_mm256_shuffle_ps(a, b, 0xdd)); }

  template <int bits>
  static Integer spread(const std::byte* p) {
    if constexpr (bits == 2) return _mm256_cvtepu16_epi32(load_half(p));
    if constexpr (bits == 4 || bits == 8) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    if constexpr (bits == 3 || bits == 6) {
      // 24 bytes: the second half is loaded from byte 8 on so that nothing behind the codes is read.
      const __m256i words = _mm256_setr_m128i(load_half(p), load_half(p + 8));
      return _mm256_shuffle_epi8(words, _mm256_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1,  //
                                                         4, 5, 6, -1, 7, 8, 9, -1, 10, 11, 12, -1, 13, 14, 15, -1));
    }
    if constexpr (bits == 5) {
      // Four codes are 20 bits: even lanes start on a byte, odd lanes four bits later. 20 bytes, as above.
      const __m256i words = _mm256_setr_m128i(load_half(p), load_half(p + 4));
      const __m256i bytes = _mm256_setr_epi8(0, 1, 2, -1, 2, 3, 4, -1, 5, 6, 7, -1, 7, 8, 9, -1,  //
                                             6, 7, 8, -1, 8, 9, 10, -1, 11, 12, 13, -1, 13, 14, 15, -1);
      return _mm256_srlv_epi32(_mm256_shuffle_epi8(words, bytes), _mm256_set1_epi64x(0x400000000));
    }
  }

  template <int bits, int i>
  static Float code(Integer words) {
    if constexpr (code_is_shifted(bits, i)) return to_float(_mm256_srli_epi32(words, i * bits));
    return to_float(_mm256_and_si256(words, _mm256_set1_epi32(code_mask(bits, i))));
  }

  template <int codes>
  static GroupIndex group_index(std::uint32_t column, int shift) {
    const __m256i columns = _mm256_mullo_epi32(lane_numbers(), _mm256_set1_epi32(codes));
    return _mm256_srl_epi32(_mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(column)), columns),
                            _mm_cvtsi32_si128(shift));
  }
  static Float pick(Float table, GroupIndex index) { return _mm256_permutevar8x32_ps(table, index); }

  static void store_integers(std::int32_t* p, Integer v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }

  template <int bits>
  static Integer fields(Integer words) {
    const __m256i halves = _mm256_blend_epi16(words, _mm256_slli_epi32(words, 16 - 2 * bits), 0xaa);
    return _mm256_blendv_epi8(_mm256_slli_epi16(halves, 8 - bits), halves, _mm256_set1_epi16(0x00ff));
  }
  template <int first, int bits>
  static Integer byte_bits(Integer bytes) {
    return _mm256_and_si256(_mm256_srli_epi32(bytes, first), _mm256_set1_epi32(byte_mask(bits)));
  }

#if defined(__AVXVNNI__)
  template <int bits, int n>
  static Integer dot(const Integer (&codes)[n], const std::byte* values) {
    __m256i total = _mm256_setzero_si256(), offsets = total;
    for (int i = 0; i < n; ++i) {
      const __m256i value = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values) + i);
      total = _mm256_dpbusd_avx_epi32(total, codes[i], value);
      // Codes of 8 bits count as less 128.
      if constexpr (bits == 8) offsets = _mm256_dpbusd_avx_epi32(offsets, _mm256_set1_epi8(-128), value);
    }
    return _mm256_sub_epi32(total, offsets);
  }
#else
  template <int bits, int n>
  static Integer dot(const Integer (&codes)[n], const std::byte* values) {
    __m256i total = _mm256_setzero_si256(), pairs = total;
    for (int i = 0; i < n; ++i) {
      const __m256i value = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values) + i);
      __m256i products;
      if constexpr (bits == 8) {
        // One factor has to be without sign: the value takes that of the code.
        const __m256i code = _mm256_xor_si256(codes[i], _mm256_set1_epi8(-128));
        products = _mm256_maddubs_epi16(_mm256_abs_epi8(code), _mm256_sign_epi8(value, code));
      } else {
        products = _mm256_maddubs_epi16(codes[i], value);
      }
      pairs = _mm256_add_epi16(pairs, products);
      if ((i + 1) % addable_pairs(bits) == 0 || i + 1 == n) {
        total = _mm256_add_epi32(total, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        pairs = _mm256_setzero_si256();
      }
    }
    return total;
  }
#endif

 private:
  static __m256i lane_numbers() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
  // Quarters 0 2 1 3: what in-lane shuffles of two vectors leave to be done.
  static Float in_order(Float v) { return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0xd8)); }
  static __m128i load_half(const std::byte* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
};

}  // namespace
}  // namespace moeflux::cpu
