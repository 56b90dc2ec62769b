// NEON vectors of 4 lanes; the interface is described in simd.h.
#pragma once
#include <arm_neon.h>

#include <cstring>

#include "cpu/simd.h"

namespace moeflux::cpu {
namespace {

struct Simd {
  static constexpr int lanes = 4;
  using Float = float32x4_t;
  using Integer = int32x4_t;
  using GroupIndex = std::uint32_t;

  static Float zero() { return vdupq_n_f32(0.0f); }
  static Float broadcast(float value) { return vdupq_n_f32(value); }
  static Float load(const float* p) { return vreinterpretq_f32_u8(load_bytes(p)); }
  static void store(float* p, Float v) { vst1q_u8(reinterpret_cast<std::uint8_t*>(p), vreinterpretq_u8_f32(v)); }
  static Float load_bfloat16(const std::byte* p) { return vreinterpretq_f32_u32(vshll_n_u16(load_half(p), 16)); }
  static Float load_float16(const std::byte* p) { return vcvt_f32_f16(vreinterpret_f16_u16(load_half(p))); }

  static Float add(Float a, Float b) { return vaddq_f32(a, b); }
  static Float subtract(Float a, Float b) { return vsubq_f32(a, b); }
  static Float multiply(Float a, Float b) { return vmulq_f32(a, b); }
  static Float divide(Float a, Float b) { return vdivq_f32(a, b); }
  static Float minimum(Float bound, Float v) { return vminq_f32(bound, v); }
  static Float maximum(Float bound, Float v) { return vmaxq_f32(bound, v); }
  static Float multiply_add(Float a, Float b, Float c) { return vfmaq_f32(c, a, b); }

  static float sum(Float v) { return vaddvq_f32(v); }

  static Integer nearest(Float v) { return vcvtnq_s32_f32(v); }
  static Float to_float(Integer v) { return vcvtq_f32_s32(v); }
  static Float power_of_two(Integer exponent) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(exponent, vdupq_n_s32(127)), 23));
  }

  static Float first(std::size_t n, Float v) {
    const uint32x4_t kept = vcltq_u32(lane_numbers(), vdupq_n_u32(static_cast<std::uint32_t>(n)));
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v), kept));
  }
  static Float even(Float a, Float b) { return vuzp1q_f32(a, b); }
  static Float odd(Float a, Float b) { return vuzp2q_f32(a, b); }

  template <int bits>
  static Integer spread(const std::byte* p) {
    if constexpr (bits == 2) return vreinterpretq_s32_u32(vmovl_u16(load_half(p)));
    if constexpr (bits == 4 || bits == 8) return vreinterpretq_s32_u8(load_bytes(p));
    if constexpr (bits == 3 || bits == 6) {
      constexpr std::uint8_t triples[16] = {0, 1, 2, 255, 3, 4, 5, 255, 6, 7, 8, 255, 9, 10, 11, 255};
      std::uint32_t last;
      std::memcpy(&last, p + 8, sizeof last);
      return gather(p, vreinterpret_u8_u32(vdup_n_u32(last)), triples);
    }
    if constexpr (bits == 5) {
      // Four codes are 20 bits: even lanes start on a byte, odd lanes four bits later.
      constexpr std::uint8_t windows[16] = {0, 1, 2, 255, 2, 3, 4, 255, 5, 6, 7, 255, 7, 8, 9, 255};
      std::uint16_t last;
      std::memcpy(&last, p + 8, sizeof last);
      constexpr std::int32_t shifts[4] = {0, -4, 0, -4};
      const Integer lanes_of_24_bits = gather(p, vreinterpret_u8_u16(vdup_n_u16(last)), windows);
      return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(lanes_of_24_bits), vld1q_s32(shifts)));
    }
  }

  template <int bits, int i>
  static Float code(Integer words) {
    if constexpr (code_is_shifted(bits, i)) {
      return vcvtq_f32_u32(vshrq_n_u32(vreinterpretq_u32_s32(words), i * bits));
    } else {
      return to_float(vandq_s32(words, vdupq_n_s32(code_mask(bits, i))));
    }
  }

  template <int codes>
  static GroupIndex group_index(std::uint32_t column, int shift) {
    return column >> shift;
  }
  static Float pick(Float table, GroupIndex index) {
    float values[lanes];
    vst1q_f32(values, table);
    return vdupq_n_f32(values[index % lanes]);
  }

  static void store_integers(std::int32_t* p, Integer v) { vst1q_s32(p, v); }

  template <int bits>
  static Integer fields(Integer lanes_of_fields) {
    const uint32x4_t words = vreinterpretq_u32_s32(lanes_of_fields);
    const uint16x8_t halves = vreinterpretq_u16_u32(vsliq_n_u32(words, vshrq_n_u32(words, 2 * bits), 16));
    return vreinterpretq_s32_u16(vsliq_n_u16(halves, vshrq_n_u16(halves, bits), 8));
  }
  template <int first, int bits>
  static Integer byte_bits(Integer bytes) {
    uint8x16_t shifted = vreinterpretq_u8_s32(bytes);
    if constexpr (first != 0) shifted = vshrq_n_u8(shifted, first);
    return vreinterpretq_s32_u8(vandq_u8(shifted, vdupq_n_u8((1 << bits) - 1)));
  }

  template <int bits, int n>
  static Integer dot(const Integer (&codes)[n], const std::byte* values) {
    Integer total = vdupq_n_s32(0);
    for (int i = 0; i < n; ++i) {
      const int8x16_t value = vreinterpretq_s8_u8(load_bytes(values + 16 * i));
      int8x16_t code = vreinterpretq_s8_s32(codes[i]);
      if constexpr (bits == 8) code = veorq_s8(code, vdupq_n_s8(-128));
      total = vdotq_s32(total, code, value);
    }
    return total;
  }

 private:
  static uint32x4_t lane_numbers() {
    constexpr std::uint32_t numbers[4] = {0, 1, 2, 3};
    return vld1q_u32(numbers);
  }
  // Loads of bytes: those of wider elements want aligned addresses.
  static uint8x16_t load_bytes(const void* p) { return vld1q_u8(static_cast<const std::uint8_t*>(p)); }
  static uint8x8_t load_low_bytes(const std::byte* p) { return vld1_u8(reinterpret_cast<const std::uint8_t*>(p)); }
  static uint16x4_t load_half(const std::byte* p) { return vreinterpret_u16_u8(load_low_bytes(p)); }
  // Bytes of the eight at p followed by `last`; index 255 gives 0.
  static Integer gather(const std::byte* p, uint8x8_t last, const std::uint8_t* index) {
    return vreinterpretq_s32_u8(vqtbl1q_u8(vcombine_u8(load_low_bytes(p), last), vld1q_u8(index)));
  }
};

}  // namespace
}  // namespace moeflux::cpu
