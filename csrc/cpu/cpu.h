// The CPU backend.
#pragma once
#include <memory>
#include <string>

#include "device.h"

namespace moeflux::cpu {

// n_threads 0 means one per core, instruction_set "" the best of this processor; activations are float32 or int8.
// Throws DeviceError.
std::shared_ptr<Device> open_device(unsigned n_threads, const std::string& instruction_set,
                                    const std::string& activations);

}  // namespace moeflux::cpu
