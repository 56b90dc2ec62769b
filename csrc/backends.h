// Which backends this build has.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "cuda/cuda.h"
#include "device.h"

namespace moeflux {

// What backends are opened with; each looks at its own.
struct BackendOptions {
  // Of the CPU backend; 0 and "" mean the best, activations are float32 or int8.
  unsigned n_threads = 0;
  std::string instruction_set = {};
  std::string activations = "float32";
  cuda::Options cuda = {};
};

// Backends that this build has and this machine can run, best first.
std::vector<std::string> device_names(const cuda::Options& cuda);

// Throws DeviceError.
std::shared_ptr<Device> open_device(const std::string& name, const BackendOptions& options);

}  // namespace moeflux
