// Which backends this build has.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "device.h"

namespace moeflux {

// Backends that this build has and this machine can run, best first.
std::vector<std::string> device_names();

// All but the name concerns the CPU backend only; 0 and "" mean the best, activations are float32 or int8. Throws
// DeviceError.
std::shared_ptr<Device> open_device(const std::string& name, unsigned n_threads, const std::string& instruction_set,
                                    const std::string& activations);

}  // namespace moeflux
