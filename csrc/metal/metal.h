// The Metal backend's door; unavailable.cpp answers where there is no Metal.
#pragma once
#include <memory>

#include "device.h"

namespace moeflux::metal {

// Whether this build has the backend and this machine a GPU for it.
bool available();
// Throws NoDeviceError if it is not available.
std::shared_ptr<Device> open_device();

}  // namespace moeflux::metal
