#include "cuda/commands.h"

#include <utility>

#include "cuda/graph.h"
#include "error.h"

namespace moeflux::cuda {

BoundBuffer CudaBackend::bound(const Buffer& buffer) {
  auto allocation = std::dynamic_pointer_cast<CudaAllocation>(buffer.allocation);
  if (!allocation) throw DeviceError("the cuda device cannot address a buffer of another device");
  const DevicePointer address = allocation->device_address(buffer.offset, buffer.nbytes);
  auto* const host = dynamic_cast<HostAllocation*>(allocation.get());
  return {std::move(allocation), buffer.offset, buffer.nbytes, address, host};
}

CudaBackend::Prepared CudaBackend::prepared() { return std::make_shared<RecordedGraph>(); }

// The driver copies and clears any range.
void CudaBackend::check_transfer(const char*, const Buffer&) {}

}  // namespace moeflux::cuda
