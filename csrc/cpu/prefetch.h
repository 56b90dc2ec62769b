// Asks for weights before they are used.
#pragma once
#include <cstddef>

namespace moeflux::cpu {
namespace {

// Bytes from the weights in use to those that are asked for. Rows of a tile are read side by side, which the
// processor's own prefetcher does not follow.
constexpr std::size_t prefetch_distance = 24 << 10;

// Asks for one cache line, up to the second level. Opaque to compilers where possible: they gather requests, and
// requests in bursts leave the memory idle between them.
inline __attribute__((always_inline)) void prefetch(const void* p) {
#if defined(__x86_64__)
  asm volatile("prefetcht1 %0" : : "m"(*static_cast<const char*>(p)));
#else
  __builtin_prefetch(p, 0, 2);
#endif
}

}  // namespace
}  // namespace moeflux::cpu
