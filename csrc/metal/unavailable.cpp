// Stands in for the Metal backend in builds without it.
#include "error.h"
#include "metal/metal.h"

namespace moeflux::metal {

bool available() { return false; }

std::shared_ptr<Device> open_device() { throw NoDeviceError("this build has no metal backend"); }

}  // namespace moeflux::metal
