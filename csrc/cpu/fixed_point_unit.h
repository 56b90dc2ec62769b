// What activations held as integers are multiples of; the same for every instruction set.
#pragma once
#include <cstdint>

namespace moeflux::cpu {
namespace {

// What one integer step of a group is worth: `largest` has the bits of the group's largest absolute activation. One
// digit means integers in -127 .. 127, three mean 24 bits.
struct FixedPointUnit {
  FixedPointUnit(int digits, std::uint32_t largest) : value(0.0f), inverse(0.0f) {
    constexpr std::uint32_t infinity = 0x7f800000, least = 0x0d800000;  // least: 2^-100, which counts as zero
    if (largest >= infinity) {
      value = __builtin_nanf("");
    } else if (largest >= least && digits == 1) {
      value = from_bits(largest) / 127.0f;
      inverse = 127.0f / from_bits(largest);
    } else if (largest >= least) {
      // A power of two, so that integers lose nothing but the last bits. The largest with three digits of at most 127
      // is a little below 2^23: mantissas above it take the next exponent.
      const std::uint32_t exponent = (largest + 0x010104) >> 23;
      value = from_bits((exponent - 22) << 23);
      inverse = from_bits((276 - exponent) << 23);
    }
  }

  float value;
  float inverse;

 private:
  static float from_bits(std::uint32_t bits) {
    float v;
    __builtin_memcpy(&v, &bits, sizeof v);
    return v;
  }
};

}  // namespace
}  // namespace moeflux::cpu
