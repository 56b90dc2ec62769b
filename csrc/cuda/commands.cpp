#include "cuda/commands.h"

#include <utility>

#include "error.h"

namespace moeflux::cuda {

BoundBuffer CudaBackend::bound(const Buffer& buffer) {
  auto allocation = std::dynamic_pointer_cast<CudaAllocation>(buffer.allocation);
  if (!allocation) throw DeviceError("the cuda device cannot address a buffer of another device");
  const DevicePointer address = allocation->device_address(buffer.offset, buffer.nbytes);
  auto* const host = dynamic_cast<HostAllocation*>(allocation.get());
  return {std::move(allocation), buffer.offset, address, host};
}

// The driver copies and clears any range.
void CudaBackend::check_transfer(const char*, const Buffer&) {}

}  // namespace moeflux::cuda
