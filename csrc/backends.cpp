#include "backends.h"

#include "cpu/cpu.h"
#include "error.h"
#include "metal/metal.h"

namespace moeflux {

std::vector<std::string> device_names(const cuda::Options& cuda) {
  std::vector<std::string> names;
  if (metal::available()) names.push_back("metal");
  if (cuda::available(cuda)) names.push_back("cuda");
  names.push_back("cpu");
  return names;
}

std::shared_ptr<Device> open_device(const std::string& name, const BackendOptions& options) {
  if (name == "cpu") return cpu::open_device(options.n_threads, options.instruction_set, options.activations);
  if (options.activations != "float32")
    throw DeviceError(options.activations + " activations need the cpu device, got " + name);
  if (name == "metal") return metal::open_device();
  if (name == "cuda") return cuda::open_device(options.cuda);
  std::string names;
  for (const std::string& available : device_names(options.cuda)) names += (names.empty() ? "" : ", ") + available;
  throw DeviceError("no device '" + name + "'; this build and machine have " + names);
}

}  // namespace moeflux
