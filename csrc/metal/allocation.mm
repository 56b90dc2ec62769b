#include "metal/allocation.h"

#include <cstring>
#include <string>

#include "error.h"
#include "file.h"
#include "metal/autorelease_pool.h"
#include "pages.h"

namespace moeflux::metal {
namespace {

// The GPU maps whole pages; 0 if there are not so many bytes.
std::size_t whole_pages(std::size_t nbytes) {
  const std::size_t page = page_size();
  return nbytes > SIZE_MAX - page ? 0 : (nbytes + page - 1) / page * page;
}

// A buffer of memory that is already there. `owner` lives until the GPU needs it no more; Metal may refuse (null).
template <typename Owner>
objc_ptr<id<MTLBuffer>> buffer_of(id<MTLDevice> device, std::shared_ptr<Owner> owner, std::size_t nbytes) {
  auto* const kept = new std::shared_ptr<Owner>(std::move(owner));
  auto buffer = objc_ptr<id<MTLBuffer>>::adopt([device newBufferWithBytesNoCopy:(*kept)->address()
                                                                         length:whole_pages(nbytes)
                                                                        options:MTLResourceStorageModeShared
                                                                    deallocator:^(void*, NSUInteger) {
                                                                      delete kept;
                                                                    }]);
  // Metal does not call the deallocator of a buffer that it did not make.
  if (!buffer) delete kept;
  return buffer;
}

objc_ptr<id<MTLBuffer>> zeroed_buffer(id<MTLDevice> device, std::size_t nbytes) {
  if (nbytes >= kHugePageSize) return buffer_of(device, std::make_shared<Pages>(whole_pages(nbytes)), nbytes);
  auto buffer = objc_ptr<id<MTLBuffer>>::adopt([device newBufferWithLength:nbytes
                                                                   options:MTLResourceStorageModeShared]);
  // Shared memory may come back with what an earlier owner left in it.
  if (buffer) std::memset([buffer.get() contents], 0, nbytes);
  return buffer;
}

}  // namespace

MetalAllocation::Memory::Memory(std::shared_ptr<DeviceObjects> device_objects, objc_ptr<id<MTLBuffer>> made)
    : objects(std::move(device_objects)),
      buffer(std::move(made)),
      address(static_cast<std::byte*>([buffer.get() contents])) {
  objects->residency.add(buffer.get());
}

MetalAllocation::Memory::~Memory() {
  const AutoreleasePool pool;
  objects->residency.remove(buffer.get());
  buffer.reset();
}

std::shared_ptr<MetalAllocation> MetalAllocation::make(std::shared_ptr<DeviceObjects> objects, std::size_t nbytes,
                                                       bool host) {
  const AutoreleasePool pool;
  const std::size_t longest = [objects->device.get() maxBufferLength];
  if (nbytes > longest || whole_pages(nbytes) == 0) {
    throw OutOfMemoryError("no room for a buffer of " + std::to_string(nbytes) + " bytes: the device's largest has " +
                               std::to_string(longest),
                           nbytes);
  }
  auto buffer = zeroed_buffer(objects->device.get(), nbytes);
  if (!buffer) throw OutOfMemoryError("no room for a buffer of " + std::to_string(nbytes) + " bytes", nbytes);
  auto memory = make_process_owned<Memory>(std::move(objects), std::move(buffer));
  return std::shared_ptr<MetalAllocation>(new MetalAllocation(nbytes, host, true, std::move(memory)));
}

std::shared_ptr<MetalAllocation> MetalAllocation::wrap(std::shared_ptr<DeviceObjects> objects,
                                                       std::shared_ptr<Mapping> mapping) {
  const AutoreleasePool pool;
  const std::size_t nbytes = mapping->nbytes();
  auto buffer = buffer_of(objects->device.get(), std::move(mapping), nbytes);
  if (!buffer) {
    throw DeviceError("the device cannot map a file of " + std::to_string(nbytes) + " bytes; its largest buffer has " +
                      std::to_string([objects->device.get() maxBufferLength]));
  }
  auto memory = make_process_owned<Memory>(std::move(objects), std::move(buffer));
  return std::shared_ptr<MetalAllocation>(new MetalAllocation(nbytes, false, false, std::move(memory)));
}

}  // namespace moeflux::metal
