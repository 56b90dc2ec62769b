// The functions for any processor.
#include "cpu/simd_baseline.h"
// The vectors above come first: all that follows is written against them.
#include "cpu/functions_simd.h"
#include "cpu/int8_rows_simd.h"

namespace moeflux::cpu {

extern const Functions functions_baseline;
const Functions functions_baseline = simd_functions(simd_row_dots, simd_int8_row_dots);

}  // namespace moeflux::cpu
