#include "cpu/processor.h"

#if defined(__x86_64__)
#include <cpuid.h>

#include <cstring>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace moeflux::cpu {

std::string processor_name() {
#if defined(__x86_64__)
  constexpr unsigned kExtendedLeaves = 0x80000000;
  constexpr unsigned kFirstLeaf = 0x80000002;
  constexpr unsigned kLastLeaf = 0x80000004;
  if (static_cast<unsigned>(__get_cpuid_max(kExtendedLeaves, nullptr)) < kLastLeaf) return "x86-64";
  char brand[49] = {};
  for (unsigned leaf = kFirstLeaf; leaf <= kLastLeaf; ++leaf) {
    unsigned registers[4] = {};
    __get_cpuid(leaf, &registers[0], &registers[1], &registers[2], &registers[3]);
    std::memcpy(brand + 16 * (leaf - kFirstLeaf), registers, sizeof registers);
  }
  const std::string name(brand);
  const std::size_t first = name.find_first_not_of(' ');
  return first == std::string::npos ? "x86-64" : name.substr(first, name.find_last_not_of(' ') + 1 - first);
#elif defined(__APPLE__)
  char brand[128] = {};
  std::size_t nbytes = sizeof brand - 1;
  return sysctlbyname("machdep.cpu.brand_string", brand, &nbytes, nullptr, 0) == 0 ? brand : "Apple arm64";
#elif defined(__aarch64__)
  return "aarch64";
#else
  return "unknown processor";
#endif
}

}  // namespace moeflux::cpu
