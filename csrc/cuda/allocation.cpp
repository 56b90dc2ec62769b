#include "cuda/allocation.h"

#include <cstring>
#include <limits>
#include <string>

#include "cuda/failure.h"
#include "cuda/transfer.h"
#include "error.h"
#include "file.h"
#include "pages.h"

namespace moeflux::cuda {
namespace {

// Beyond this a copy takes longer than the accesses that it saves.
constexpr std::size_t kMirroredNbytes = std::size_t{64} << 10;

}  // namespace

DeviceMemory::DeviceMemory(std::shared_ptr<DeviceObjects> objects, std::size_t nbytes)
    : objects_(std::move(objects)), nbytes_(nbytes) {
  check_allocation(objects_->driver(), objects_->call().memory_alloc(&address_, nbytes), nbytes);
  objects_->count(static_cast<std::int64_t>(nbytes));
}

DeviceMemory::~DeviceMemory() {
  objects_->count(-static_cast<std::int64_t>(nbytes_));
  const ReleaseScope scope(*objects_);
  if (scope.usable()) objects_->call().memory_free(address_);
}

void DeviceMemory::clear() {
  const Driver& driver = objects_->driver();
  driver.check(driver.call().fill_async(address_, 0, nbytes_, objects_->copies()), "clearing a new buffer");
  objects_->finish_copies("clearing a new buffer");
}

void DeviceMemory::upload(std::span<const std::byte> bytes) {
  const Driver& driver = objects_->driver();
  const std::string what = "upload of " + std::to_string(bytes.size()) + " bytes";
  driver.check(driver.call().copy_to_device_async(address_, bytes.data(), bytes.size(), objects_->copies()), what);
  objects_->finish_copies(what);
}

void DeviceMemory::download(std::size_t offset, std::span<std::byte> destination) const {
  if (destination.empty()) return;
  const ContextScope scope(*objects_);
  const Driver& driver = objects_->driver();
  const std::string what = "download of " + std::to_string(destination.size()) + " bytes";
  driver.check(
      driver.call().copy_to_host_async(destination.data(), address_ + offset, destination.size(), objects_->copies()),
      what);
  objects_->finish_copies(what);
}

std::unique_ptr<Transfer> DeviceAllocation::transfer() {
  return std::make_unique<CudaTransfer>(memory_->shared_objects(), memory_->address());
}

HostAllocation::Memory::Memory(std::shared_ptr<DeviceObjects> device_objects, std::size_t nbytes, std::size_t alignment)
    : objects(std::move(device_objects)) {
  if (nbytes > std::numeric_limits<std::size_t>::max() - alignment) {
    check_allocation(objects->driver(), kOutOfMemory, nbytes);
  }
  std::size_t room = nbytes + alignment;
  check_allocation(objects->driver(), objects->call().host_alloc(&allocated, room, kHostPortable | kHostDeviceMap),
                   nbytes);
  void* aligned = std::align(alignment, nbytes, allocated, room);
  std::memset(aligned, 0, nbytes);
  address = static_cast<std::byte*>(aligned);
  const Result result = objects->call().host_device_pointer(&device_address, aligned, 0);
  if (result != kSuccess) objects->call().host_free(allocated);
  objects->driver().check(result, "the GPU cannot address page-locked memory");
}

HostAllocation::Memory::~Memory() {
  const ReleaseScope scope(*objects);
  if (scope.usable()) objects->call().host_free(allocated);
}

HostAllocation::HostAllocation(std::shared_ptr<DeviceObjects> objects, std::size_t nbytes, std::size_t alignment)
    : CudaAllocation(nbytes, true), memory_(make_process_owned<Memory>(std::move(objects), nbytes, alignment)) {}

void HostAllocation::download(std::size_t offset, std::span<std::byte> destination) {
  std::memcpy(destination.data(), memory_->address + offset, destination.size());
}

DevicePointer HostAllocation::mirror() {
  if (nbytes() > kMirroredNbytes) return 0;
  const std::lock_guard lock(memory_->mutex);
  if (!memory_->mirror) memory_->mirror = std::make_unique<DeviceMemory>(memory_->objects, nbytes());
  return memory_->mirror->address();
}

Result HostAllocation::fill_mirror(StreamHandle stream) const {
  return memory_->objects->call().copy_to_device_async(memory_->mirror->address(), memory_->address, nbytes(), stream);
}

DevicePointer PageableAllocation::device_address(std::size_t, std::size_t nbytes) {
  throw DeviceError("kernels cannot address " + std::to_string(nbytes) + " bytes that are not page-locked");
}

void PageableAllocation::download(std::size_t offset, std::span<std::byte> destination) {
  std::memcpy(destination.data(), pages_.address() + offset, destination.size());
}

MappedAllocation::MappedAllocation(std::shared_ptr<DeviceObjects> objects, std::shared_ptr<Mapping> mapping)
    : CudaAllocation(mapping->nbytes(), false),
      objects_(std::move(objects)),
      mapping_(std::move(mapping)),
      parts_(make_process_owned<Parts>()) {}

std::byte* MappedAllocation::address() { return mapping_->address(); }

DevicePointer MappedAllocation::device_address(std::size_t offset, std::size_t nbytes) {
  if (nbytes == 0) return 0;
  const ContextScope scope(*objects_);
  const std::lock_guard lock(parts_->mutex);
  std::unique_ptr<DeviceMemory>& part = parts_->by_range[{offset, nbytes}];
  if (!part) {
    auto brought = std::make_unique<DeviceMemory>(objects_, nbytes);
    brought->upload({mapping_->address() + offset, nbytes});
    mapping_->let_go(offset, nbytes);
    part = std::move(brought);
  }
  return part->address();
}

void MappedAllocation::download(std::size_t offset, std::span<std::byte> destination) {
  std::memcpy(destination.data(), mapping_->address() + offset, destination.size());
}

}  // namespace moeflux::cuda
