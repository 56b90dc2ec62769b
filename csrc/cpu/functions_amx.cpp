// The functions for AVX-512 with AMX tiles of 8-bit integers.
// GCC 12 takes the undefined vectors inside its own AVX-512 intrinsics for mistakes of their callers (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include "cpu/simd_avx512.h"
// The vectors above come first: all that follows is written against them.
#include "cpu/functions_simd.h"
#include "cpu/tile_products_amx.h"

namespace moeflux::cpu {

extern const Functions functions_amx;
const Functions functions_amx =
    simd_functions_with(fixed_point_row_dots<3, TileProducts>, fixed_point_row_dots<1, TileProducts>);

}  // namespace moeflux::cpu
