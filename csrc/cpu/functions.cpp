// Finds the function table of an instruction set.
#include "cpu/functions.h"

#include <string>

#include "error.h"

namespace moeflux::cpu {

extern const Functions functions_baseline;
#if defined(__x86_64__)
extern const Functions functions_avx2;
extern const Functions functions_avx512;
#elif defined(__aarch64__)
extern const Functions functions_neon;
#endif

const Functions& functions(InstructionSet set) {
  switch (set) {
    case InstructionSet::baseline:
      return functions_baseline;
#if defined(__x86_64__)
    case InstructionSet::avx2:
      return functions_avx2;
    case InstructionSet::avx512:
      return functions_avx512;
#elif defined(__aarch64__)
    case InstructionSet::neon:
      return functions_neon;
#endif
    default:
      throw DeviceError("instruction set " + std::string(instruction_set_name(set)) + " is not part of this build");
  }
}

}  // namespace moeflux::cpu
