// The CUDA backend's door; unavailable.cpp answers where there is none.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "device.h"

namespace moeflux::cuda {

struct Options {
  // Of the driver's library.
  std::string driver = "libcuda.so.1";
  // Where NVRTC may be, the best first; the driver has to serve its version.
  std::vector<std::string> compilers = {"libnvrtc.so.13", "libnvrtc.so.12"};
  // Keeps compiled kernels; "" for none.
  std::string kernel_folder;
  // After that, work that has not ended counts as lost, and the device with it.
  double longest_wait_seconds = 120;
};

// Whether this machine has a driver, a GPU and a compiler for it.
bool available(const Options& options);
// Throws NoDeviceError if it is not available, DeviceError if the GPU refuses.
std::shared_ptr<Device> open_device(const Options& options);

}  // namespace moeflux::cuda
