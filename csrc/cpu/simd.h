// What the vector code of every instruction set is written against: simd_<set>.h defines `struct Simd` with these
// static members.
//
// Each simd_<set>.h is included by source files that are compiled for that set or more. All that is built on Simd
// lives in unnamed namespaces and calls no inline function of the standard library: the linker must never be able to
// merge a function compiled for one instruction set into code that runs on another.
//
//   lanes, Float, Integer                        vectors of float32 and of int32 or uint32
//   zero() broadcast(v) load(p) store(p, v)      no alignment is assumed anywhere
//   load_bfloat16(p) load_float16(p)             from raw bytes, widened to float32
//   add subtract multiply divide minimum maximum
//   multiply_add(a, b, c)                        a * b + c, fused where the set has it
//   sum(v)                                       over the lanes, in one fixed order
//   sums(v, out)                                of 4 x 4 vectors at once, with the bits of sum; not every set has it
//   nearest(v) to_float(i) power_of_two(i)       for the exponential
//   first(n, v)                                  v with zero in all lanes from n on
//   even(a, b) odd(a, b)                         the even or odd elements of a followed by b
//   spread<bits>(p)                              lanes with codes_per_lane(bits) consecutive codes each, lowest bits
//                                                first
//   code<bits, i>(lanes)                         code i of every lane times code_unit<bits>(i), a power of two, as
//                                                float32
//   GroupIndex group_index<codes>(column, shift) group of each lane: (column + codes * lane) >> shift
//   pick(table, index)                           table[index % lanes] per lane
//
// Where 8-bit activations have no vectors of their own (fixed_point_avx512.h):
//
//   store_integers(p, i)
//   fields<bits>(lanes)                          the lowest four fields of `bits` bits of every lane in a byte each,
//   the
//                                                higher bits of which are arbitrary
//   byte_bits<first, bits>(bytes)                bits first .. first + bits - 1 of every byte
//   dot<bits, n>(codes, values)                  per lane, the sum over its 4 * n bytes of code times value, an exact
//                                                integer: codes have `bits` bits and those of 8 bits count as less 128;
//                                                values are -127 .. 127, those of codes[i] 4 * lanes bytes from
//                                                values + 4 * lanes * i on
//
// minimum(bound, v) and maximum(bound, v) return v if v is not a number, so that bad values stay visible.
#pragma once
#include <cstddef>
#include <cstdint>

namespace moeflux::cpu {
namespace {

// Consecutive codes that one 32-bit lane holds: eight where they fit.
constexpr int codes_per_lane(int bits) { return bits <= 4 ? 8 : 4; }

// Code i of a lane is masked where it stands and so is 2^(i * bits) too large; the last one of a full lane is shifted
// down.
constexpr bool code_is_shifted(int bits, int i) { return (i + 1) * bits == 32; }
constexpr float code_unit(int bits, int i) {
  return code_is_shifted(bits, i) ? 1.0f : static_cast<float>(std::uint64_t{1} << (i * bits));
}
constexpr int code_mask(int bits, int i) { return ((1 << bits) - 1) << (i * bits); }

// The lowest `bits` bits of every byte of a lane.
constexpr int byte_mask(int bits) { return ((1 << bits) - 1) * 0x01010101; }
// How many pairs of products of a value in -127 .. 127 with a code a signed 16-bit lane can add.
constexpr int addable_pairs(int bits) { return 32767 / (2 * 127 * (bits == 8 ? 128 : (1 << bits) - 1)); }

}  // namespace
}  // namespace moeflux::cpu
