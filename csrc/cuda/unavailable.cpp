// Stands in for the CUDA backend where NVIDIA has no driver.
#include "cuda/cuda.h"
#include "error.h"

namespace moeflux::cuda {

bool available(const Options&) { return false; }

std::shared_ptr<Device> open_device(const Options&) { throw NoDeviceError("this build has no cuda backend"); }

}  // namespace moeflux::cuda
