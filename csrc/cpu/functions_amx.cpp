// Matrix products in AMX tiles of 8-bit integers, where AVX-512 has all the rest.
// GCC 12 takes the undefined vectors inside its own AVX-512 intrinsics for mistakes of their callers (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include "cpu/simd_avx512.h"
// The vectors above come first: all that follows is written against them.
#include "cpu/tile_products_amx.h"

namespace moeflux::cpu {

extern const Functions functions_avx512;

RowDots amx_row_dots(std::uint32_t format);
RowDots amx_row_dots(std::uint32_t format) {
  return with_fixed_point<3, TileProducts>(functions_avx512.row_dots(format));
}

RowDots amx_int8_row_dots(std::uint32_t format);
RowDots amx_int8_row_dots(std::uint32_t format) {
  return with_fixed_point<1, TileProducts>(functions_avx512.int8_row_dots(format));
}

}  // namespace moeflux::cpu
