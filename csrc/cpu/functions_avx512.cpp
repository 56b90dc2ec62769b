// The functions for AVX-512.
// GCC 12 takes the undefined vectors inside its own AVX-512 intrinsics for mistakes of their callers (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include "cpu/simd_avx512.h"
// The vectors above come first: all that follows is written against them.
#include "cpu/fixed_point_rows_avx512.h"
#include "cpu/functions_simd.h"

namespace moeflux::cpu {
namespace {

RowDots avx512_row_dots(std::uint32_t format) { return with_fixed_point<3, VectorProducts>(simd_row_dots(format)); }

RowDots avx512_int8_row_dots(std::uint32_t format) {
  return with_fixed_point<1, VectorProducts>(simd_row_dots(format));
}

}  // namespace

extern const Functions functions_avx512;
const Functions functions_avx512 = simd_functions(avx512_row_dots, avx512_int8_row_dots);

}  // namespace moeflux::cpu
