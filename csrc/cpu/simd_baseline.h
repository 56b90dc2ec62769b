// Vectors of 4 lanes from the compiler's own vector types, for any processor; the interface is described in simd.h.
#pragma once
#include <cstring>

#include "cpu/simd.h"

namespace moeflux::cpu {
namespace {

struct Simd {
  static constexpr int lanes = 4;
  using Float = float __attribute__((vector_size(16)));
  using Integer = std::int32_t __attribute__((vector_size(16)));
  using GroupIndex = std::uint32_t;

  static Float zero() { return Float{}; }
  static Float broadcast(float value) { return Float{value, value, value, value}; }
  static Float load(const float* p) { return load_bytes<Float>(p); }
  static void store(float* p, Float v) { std::memcpy(p, &v, sizeof v); }
  static Float load_bfloat16(const std::byte* p) { return as_float(load_half(p) << 16); }
  static Float load_float16(const std::byte* p) {
    const Words half = load_half(p);
    const Words magnitude = (half & 0x7fff) << 13;
    // Exponent 31 means infinity or not a number; every other value, denormal or not, is exact after one
    // multiplication.
    const Words special = magnitude | 0x7f800000;
    const Words finite = as_words(as_float(magnitude) * 0x1p112f);
    const Words is_special = reinterpret_cast<Words>((half & 0x7c00) == 0x7c00);
    return as_float((is_special & special) | (~is_special & finite) | (half & 0x8000) << 16);
  }

  static Float add(Float a, Float b) { return a + b; }
  static Float subtract(Float a, Float b) { return a - b; }
  static Float multiply(Float a, Float b) { return a * b; }
  static Float divide(Float a, Float b) { return a / b; }
  static Float minimum(Float bound, Float v) { return select(bound < v, bound, v); }
  static Float maximum(Float bound, Float v) { return select(bound > v, bound, v); }
  static Float multiply_add(Float a, Float b, Float c) { return a * b + c; }

  static float sum(Float v) { return (v[0] + v[2]) + (v[1] + v[3]); }

  static Integer nearest(Float v) {
    // Adding and subtracting 1.5 * 2^23 rounds to an integer.
    const Float magic = broadcast(0x1.8p23f);
    return __builtin_convertvector((v + magic) - magic, Integer);
  }
  static Float to_float(Integer v) { return __builtin_convertvector(v, Float); }
  static Float power_of_two(Integer exponent) { return as_float(reinterpret_cast<Words>(exponent + 127) << 23); }

  static Float first(std::size_t n, Float v) {
    const Words kept = reinterpret_cast<Words>(Words{0, 1, 2, 3} < static_cast<std::uint32_t>(n));
    return as_float(as_words(v) & kept);
  }
  static Float even(Float a, Float b) { return __builtin_shufflevector(a, b, 0, 2, 4, 6); }
  static Float odd(Float a, Float b) { return __builtin_shufflevector(a, b, 1, 3, 5, 7); }

  template <int bits>
  static Integer spread(const std::byte* p) {
    if constexpr (bits == 2) return reinterpret_cast<Integer>(load_half(p));
    if constexpr (bits == 4 || bits == 8) return load_bytes<Integer>(p);
    // The last lane is loaded so that nothing behind the codes is read.
    if constexpr (bits == 3 || bits == 6) {
      return reinterpret_cast<Integer>(Words{word(p), word(p + 3), word(p + 6), word(p + 8) >> 8});
    }
    // Four codes are 20 bits: even lanes start on a byte, odd lanes four bits later.
    if constexpr (bits == 5) {
      return reinterpret_cast<Integer>(Words{word(p), word(p + 1) >> 12, word(p + 5), word(p + 6) >> 12});
    }
  }

  template <int bits, int i>
  static Float code(Integer words) {
    if constexpr (code_is_shifted(bits, i)) {
      return to_float(reinterpret_cast<Integer>(reinterpret_cast<Words>(words) >> (i * bits)));
    }
    return to_float(words & code_mask(bits, i));
  }

  template <int codes>
  static GroupIndex group_index(std::uint32_t column, int shift) {
    return column >> shift;
  }
  static Float pick(Float table, GroupIndex index) { return broadcast(table[index % lanes]); }

  static void store_integers(std::int32_t* p, Integer v) { std::memcpy(p, &v, sizeof v); }

  template <int bits>
  static Integer fields(Integer lanes_of_fields) {
    const Words words = reinterpret_cast<Words>(lanes_of_fields);
    const Words halves = (words & 0xffff) | (words << (16 - 2 * bits) & 0xffff0000);
    return reinterpret_cast<Integer>((halves & 0x00ff00ff) | (halves << (8 - bits) & 0xff00ff00));
  }
  template <int first, int bits>
  static Integer byte_bits(Integer bytes) {
    return reinterpret_cast<Integer>(reinterpret_cast<Words>(bytes) >> first) & byte_mask(bits);
  }

  template <int bits, int n>
  static Integer dot(const Integer (&codes)[n], const std::byte* values) {
    constexpr int sign_bits = -0x7f7f7f80;  // 0x80808080
    Integer total = {};
    Shorts pairs = {};
    for (int i = 0; i < n; ++i) {
      const Shorts value = load_bytes<Shorts>(values + sizeof(Shorts) * i);
      const Shorts code = reinterpret_cast<Shorts>(bits == 8 ? codes[i] ^ sign_bits : codes[i]);
      pairs += (code << 8 >> 8) * (value << 8 >> 8) + (code >> 8) * (value >> 8);
      if ((i + 1) % addable_pairs(bits) == 0 || i + 1 == n) {
        const Integer both = reinterpret_cast<Integer>(pairs);
        total += (both << 16 >> 16) + (both >> 16);
        pairs = Shorts{};
      }
    }
    return total;
  }

 private:
  using Words = std::uint32_t __attribute__((vector_size(16)));
  using Halves = std::uint16_t __attribute__((vector_size(8)));
  using Shorts = std::int16_t __attribute__((vector_size(16)));

  template <typename T>
  static T load_bytes(const void* p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
  }
  static std::uint32_t word(const std::byte* p) { return load_bytes<std::uint32_t>(p); }
  static Words load_half(const std::byte* p) { return __builtin_convertvector(load_bytes<Halves>(p), Words); }
  static Float as_float(Words v) { return reinterpret_cast<Float>(v); }
  static Words as_words(Float v) { return reinterpret_cast<Words>(v); }
  static Float select(Integer condition, Float a, Float b) {
    const Words mask = reinterpret_cast<Words>(condition);
    return as_float((mask & as_words(a)) | (~mask & as_words(b)));
  }
};

}  // namespace
}  // namespace moeflux::cpu
