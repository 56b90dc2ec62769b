// Which instruction sets this processor and its operating system offer.
#include "cpu/kernel.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace moeflux::cpu {
namespace {

#if defined(__x86_64__)
// Conversions of float16; clang before 17 cannot be asked for them by name. Usable wherever AVX is.
bool has_f16c() {
  constexpr unsigned kF16c = 1u << 29;
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & kF16c) != 0;
}

// Dot products of bytes in AVX registers; not every compiler can be asked for them by name.
bool has_avxvnni() {
  constexpr unsigned kAvxVnni = 1u << 4;
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & kAvxVnni) != 0;
}

// Tiles of 8-bit integers. Linux hands out their registers to a process that asks for them
// (https://docs.kernel.org/arch/x86/xstate.html); no other system is known to.
bool has_amx() {
#if defined(__linux__)
  constexpr unsigned kAmxTile = 1u << 24, kAmxInt8 = 1u << 25;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kAmxTile) != 0 && (d & kAmxInt8) != 0 &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

}  // namespace

// GCC's and clang's run-time check covers both the processor (cpuid) and the operating system (xgetbv).
std::vector<InstructionSet> available_instruction_sets() {
  std::vector<InstructionSet> sets;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni");
  if (avx512 && has_amx()) sets.push_back(InstructionSet::amx);
  if (avx512) sets.push_back(InstructionSet::avx512);
  if (avx2 && has_avxvnni()) sets.push_back(InstructionSet::avxvnni);
  if (avx2) sets.push_back(InstructionSet::avx2);
#elif defined(__aarch64__) && defined(__linux__)
  constexpr unsigned long kHalfFloat = 1ul << 10;   // HWCAP_ASIMDHP
  constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  const unsigned long capabilities = getauxval(AT_HWCAP);
  if ((capabilities & kHalfFloat) && (capabilities & kDotProduct)) sets.push_back(InstructionSet::neon);
#elif defined(__aarch64__) && defined(__APPLE__)
  sets.push_back(InstructionSet::neon);  // every Apple arm64 processor has both extensions
#endif
  sets.push_back(InstructionSet::baseline);
  return sets;
}

std::string_view instruction_set_name(InstructionSet set) {
  switch (set) {
    case InstructionSet::baseline:
      return "baseline";
    case InstructionSet::avx2:
      return "avx2";
    case InstructionSet::avxvnni:
      return "avxvnni";
    case InstructionSet::avx512:
      return "avx512";
    case InstructionSet::amx:
      return "amx";
    case InstructionSet::neon:
      return "neon";
  }
  return "unknown";
}

}  // namespace moeflux::cpu
