// Products with activations in 8 bits, where AVX2 has the dot products of AVX-VNNI; AVX2 has all the rest.
#include "cpu/simd_avx2.h"
// The vectors above come first: all that follows is written against them.
#include "cpu/int8_rows_simd.h"

namespace moeflux::cpu {

RowDots avxvnni_int8_row_dots(std::uint32_t format);
RowDots avxvnni_int8_row_dots(std::uint32_t format) { return simd_int8_row_dots(format); }

}  // namespace moeflux::cpu
