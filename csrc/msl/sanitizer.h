// Marks memory for AddressSanitizer; nothing without it.
#pragma once

#include <cstddef>

#if defined(MSL_MODE_ADDRESS)
#include <sanitizer/asan_interface.h>
#endif

namespace msl {

inline void poison([[maybe_unused]] const void* memory, [[maybe_unused]] std::size_t nbytes) {
#if defined(MSL_MODE_ADDRESS)
  __asan_poison_memory_region(memory, nbytes);
#endif
}

inline void unpoison([[maybe_unused]] const void* memory, [[maybe_unused]] std::size_t nbytes) {
#if defined(MSL_MODE_ADDRESS)
  __asan_unpoison_memory_region(memory, nbytes);
#endif
}

}  // namespace msl
