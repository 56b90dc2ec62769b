// How a GPU backend runs a kernel of params.h: which shader function, over how many threads. Arithmetic only; no Metal.
//
// Buffers bind at 0 .., the parameter struct behind them and Step last. Function constants are bound by their names,
// all of them unsigned 32-bit.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "device.h"
#include "params.h"

namespace moeflux::gpu {

struct Extent {
  uint32 x = 1;
  uint32 y = 1;
  uint32 z = 1;
};

struct Launch {
  std::string_view function;  // one of its kernel's functions
  Extent threadgroups;
  Extent threads;  // per threadgroup
};

// What a launch may depend on; never on the contents of buffers.
struct Dispatch {
  const Constants& constants;
  const std::byte* params_bytes;
  Step step;

  template <typename Params>
  const Params& params() const {
    return *reinterpret_cast<const Params*>(params_bytes);
  }
};

// One row of a shader family's table.
struct Kernel {
  std::string_view name;
  std::size_t n_buffers;
  std::size_t params_nbytes;
  std::vector<std::string_view> constants;
  std::vector<std::string_view> functions;
  // Throws DeviceError for constants that the shaders do not support.
  Launch (*launch)(const Dispatch&);
  // Whether its shaders take the constant fixed_point as well, which is the backend's to choose.
  bool takes_fixed_point = false;
};

// The constants of a kernel with the backend's own, unless the caller chose that. Throws DeviceError for others than
// the kernel's.
Constants specialise(const Kernel& kernel, Constants constants, bool fixed_point);

// One per shader file.
std::vector<Kernel> embedding_kernels();
std::vector<Kernel> norm_kernels();
std::vector<Kernel> matmul_kernels();
std::vector<Kernel> attention_kernels();
std::vector<Kernel> gated_delta_net_kernels();
std::vector<Kernel> moe_kernels();
std::vector<Kernel> router_kernels();

// All of them, ordered by name.
const std::vector<Kernel>& gpu_kernels();
// Throws DeviceError that names the available kernels.
const Kernel& gpu_kernel(std::string_view name);

}  // namespace moeflux::gpu
