// What a running thread sees of its threadgroup. Shaders include it, so it brings no names but its own.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "library.h"

namespace msl {

enum MemoryFlags : uint32_t { MEMORY_DEVICE = 1, MEMORY_THREADGROUP = 2 };

struct Extent {
  uint32_t x, y, z;
};

// Where in the shader a thread waits.
struct Site {
  const char* file = "";
  int line = 0;
  int column = 0;

#if defined(__clang__)
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE(),
                             int column = __builtin_COLUMN()) {
    return {file, line, column};
  }
#else
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line, 0};
  }
#endif
};

// One bit per lane in each mask.
struct Simdgroup {
  uint32_t lanes;  // all that exist
  uint32_t ready;
  uint32_t at_operation;
  uint32_t at_barrier;
  uint32_t finished;
  uint32_t active;  // those of the operation completed last
  uint32_t parity;  // which half of `values` the next operation fills
  bool reduced[2];
  // Orders accesses of the simdgroup's own lanes, per kind of memory.
  uint64_t device_epoch;
  uint64_t threadgroup_epoch;
  Site sites[MSL_SIMD_WIDTH];
  alignas(64) unsigned char values[2][MSL_SIMD_WIDTH][64];
  alignas(64) unsigned char result[2][64];
};

struct Context {
  const msl_dispatch* dispatch;
  Extent threadgroups;  // of the dispatch
  Extent threads;       // of a threadgroup
  Extent position;      // of this threadgroup
  uint32_t thread;      // the one that runs
  uint32_t n_simdgroups;
  Simdgroup* simdgroups;
  void* dynamic_memory[MSL_MAX_BUFFERS];

  uint32_t lane() const { return thread % MSL_SIMD_WIDTH; }
  Simdgroup& simdgroup() { return simdgroups[thread / MSL_SIMD_WIDTH]; }
};

// Of the OS thread that asks, null outside of dispatches. Initial-exec, for a library that is opened at run time has
// little room for thread-local variables.
extern thread_local Context* current __attribute__((tls_model("initial-exec")));

// All for the thread that runs.
void wait_at_barrier(uint32_t flags, Site site);
void wait_at_simdgroup_barrier(uint32_t flags, Site site);
// Waits until the other lanes are at the same site, too.
void wait_for_simdgroup(Site site);
// The memory of the kernel's threadgroup variables with this number.
void* static_memory(size_t number, size_t nbytes);

// Adds to what a kernel needs of threadgroup memory; called while the library loads.
bool add_static_memory(size_t kernel, size_t nbytes);

}  // namespace msl
