// The CPU backend.
#pragma once
#include <memory>
#include <string>

#include "device.h"

namespace moeflux::cpu {

// n_threads 0 means one per core, instruction_set "" the best of this processor. Throws DeviceError.
std::shared_ptr<Device> open_device(unsigned n_threads, const std::string& instruction_set);

}  // namespace moeflux::cpu
