// Memory that CPU and GPU share.
#pragma once
#import <Metal/Metal.h>

#include <memory>

#include "device.h"
#include "metal/objc_ptr.h"
#include "metal/objects.h"

namespace moeflux::metal {

class MetalAllocation final : public Allocation {
 public:
  // Zeroed; aligned to 2 MiB when at least that large. Throws OutOfMemoryError.
  static std::shared_ptr<MetalAllocation> make(std::shared_ptr<DeviceObjects> objects, std::size_t nbytes, bool host);
  // The mapping's own pages. Throws DeviceError if Metal refuses them.
  static std::shared_ptr<MetalAllocation> wrap(std::shared_ptr<DeviceObjects> objects,
                                               std::shared_ptr<Mapping> mapping);

  std::byte* address() override { return memory_->address; }
  bool writable() const override { return writable_; }
  id<MTLBuffer> buffer() const { return memory_->buffer.get(); }

 private:
  // Leaves the residency set with the last reference.
  struct Memory {
    Memory(std::shared_ptr<DeviceObjects> objects, objc_ptr<id<MTLBuffer>> buffer);
    ~Memory();
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;

    std::shared_ptr<DeviceObjects> objects;
    objc_ptr<id<MTLBuffer>> buffer;
    std::byte* address;
  };

  MetalAllocation(std::size_t nbytes, bool host, bool writable, ProcessOwned<Memory> memory)
      : Allocation(nbytes, host), writable_(writable), memory_(std::move(memory)) {}

  bool writable_;
  ProcessOwned<Memory> memory_;
};

}  // namespace moeflux::metal
