// The functions for AVX2.
#include "cpu/simd_avx2.h"
// The vectors above come first: all that follows is written against them.
#include "cpu/functions_simd.h"
#include "cpu/int8_rows_simd.h"

namespace moeflux::cpu {

extern const Functions functions_avx2;
const Functions functions_avx2 = simd_functions(simd_row_dots, simd_int8_row_dots);

}  // namespace moeflux::cpu
