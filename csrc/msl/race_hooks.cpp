// What the compiler's instrumentation calls before each access of a shader, by the names of ThreadSanitizer's runtime.
#include "race.h"

#if defined(MSL_MODE_RACE)

#include <cstddef>
#include <cstring>

using msl::race::Access;
using msl::race::note;

// What the compiler calls before each access of a shader.
#define MSL_HOOKS(nbytes)                                              \
  extern "C" void __tsan_read##nbytes(void* address) {                 \
    note(address, nbytes, Access::READ, __builtin_return_address(0));  \
  }                                                                    \
  extern "C" void __tsan_write##nbytes(void* address) {                \
    note(address, nbytes, Access::WRITE, __builtin_return_address(0)); \
  }                                                                    \
  extern "C" void __tsan_unaligned_read##nbytes(void* address) {       \
    note(address, nbytes, Access::READ, __builtin_return_address(0));  \
  }                                                                    \
  extern "C" void __tsan_unaligned_write##nbytes(void* address) {      \
    note(address, nbytes, Access::WRITE, __builtin_return_address(0)); \
  }
MSL_HOOKS(1)
MSL_HOOKS(2)
MSL_HOOKS(4)
MSL_HOOKS(8)
MSL_HOOKS(16)
#undef MSL_HOOKS

extern "C" void __tsan_init() {}

extern "C" void* __tsan_memcpy(void* to, const void* from, std::size_t nbytes) {
  note(from, nbytes, Access::READ, __builtin_return_address(0));
  note(to, nbytes, Access::WRITE, __builtin_return_address(0));
  return std::memcpy(to, from, nbytes);
}
extern "C" void* __tsan_memmove(void* to, const void* from, std::size_t nbytes) {
  note(from, nbytes, Access::READ, __builtin_return_address(0));
  note(to, nbytes, Access::WRITE, __builtin_return_address(0));
  return std::memmove(to, from, nbytes);
}
extern "C" void* __tsan_memset(void* to, int value, std::size_t nbytes) {
  note(to, nbytes, Access::WRITE, __builtin_return_address(0));
  return std::memset(to, value, nbytes);
}

#endif
