// What a translated shader tells the runner about itself; registration.py writes it behind each shader.
#pragma once

#include "run.h"

namespace msl {

struct Entry {
  msl_kernel kernel;
  void (*call)();  // runs the current thread
  uint32_t max_threads;
};

struct FunctionConstant {
  msl_constant constant;
  void* address;  // of the variable that all kernels of the library read
};

struct Library {
  Entry* entries;
  size_t n_entries;
  const FunctionConstant* constants;
  size_t n_constants;
  void (*derive_constants)();  // computes constants that depend on function constants
};

extern const Library library;

}  // namespace msl
