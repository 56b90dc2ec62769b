#include "backends.h"

#include "cpu/cpu.h"
#include "error.h"
#include "metal/metal.h"

namespace moeflux {

std::vector<std::string> device_names() {
  std::vector<std::string> names;
  if (metal::available()) names.push_back("metal");
  names.push_back("cpu");
  return names;
}

std::shared_ptr<Device> open_device(const std::string& name, unsigned n_threads, const std::string& instruction_set,
                                    const std::string& activations) {
  if (name == "cpu") return cpu::open_device(n_threads, instruction_set, activations);
  if (activations != "float32") throw DeviceError(activations + " activations need the cpu device, got " + name);
  if (name == "metal") return metal::open_device();
  std::string names;
  for (const std::string& available : device_names()) names += (names.empty() ? "" : ", ") + available;
  throw DeviceError("no device '" + name + "'; this build and machine have " + names);
}

}  // namespace moeflux
