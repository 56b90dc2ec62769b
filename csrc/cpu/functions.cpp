// Finds the function table of an instruction set.
#include "cpu/functions.h"

#include <string>

#include "error.h"

namespace moeflux::cpu {

extern const Functions functions_baseline;
#if defined(__x86_64__)
extern const Functions functions_avx2;
extern const Functions functions_avx512;
RowDots avxvnni_int8_row_dots(std::uint32_t format);
RowDots amx_row_dots(std::uint32_t format);
RowDots amx_int8_row_dots(std::uint32_t format);
#elif defined(__aarch64__)
extern const Functions functions_neon;
#endif

#if defined(__x86_64__)
namespace {

// Joined here, in portable code, because it runs on processors without these instructions too.
Functions with_row_dots(Functions functions, RowDots (*row_dots)(std::uint32_t format),
                        RowDots (*int8_row_dots)(std::uint32_t format)) {
  functions.row_dots = row_dots;
  functions.int8_row_dots = int8_row_dots;
  return functions;
}

const Functions& avxvnni_functions() {
  static const Functions table = with_row_dots(functions_avx2, functions_avx2.row_dots, avxvnni_int8_row_dots);
  return table;
}

const Functions& amx_functions() {
  static const Functions table = with_row_dots(functions_avx512, amx_row_dots, amx_int8_row_dots);
  return table;
}

}  // namespace
#endif

const Functions& functions(InstructionSet set) {
  switch (set) {
    case InstructionSet::baseline:
      return functions_baseline;
#if defined(__x86_64__)
    case InstructionSet::avx2:
      return functions_avx2;
    case InstructionSet::avxvnni:
      return avxvnni_functions();
    case InstructionSet::avx512:
      return functions_avx512;
    case InstructionSet::amx:
      return amx_functions();
#elif defined(__aarch64__)
    case InstructionSet::neon:
      return functions_neon;
#endif
    default:
      throw DeviceError("instruction set " + std::string(instruction_set_name(set)) + " is not part of this build");
  }
}

RowDots row_dots(Target target, std::uint32_t format) {
  const Functions& table = functions(target);
  return target.activations == Activations::int8 ? table.int8_row_dots(format) : table.row_dots(format);
}

}  // namespace moeflux::cpu
