// Which backends this build has.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "device.h"

namespace moeflux {

// Backends that this build has and this machine can run, best first.
std::vector<std::string> device_names();

// n_threads and instruction_set concern the CPU backend only; 0 and "" mean the best. Throws DeviceError.
std::shared_ptr<Device> open_device(const std::string& name, unsigned n_threads, const std::string& instruction_set);

}  // namespace moeflux
