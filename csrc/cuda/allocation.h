// Memory that kernels address: the GPU's own, page-locked memory of the host, and files brought to the GPU.
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <utility>

#include "cuda/objects.h"
#include "device.h"
#include "pages.h"
#include "thread.h"

namespace moeflux::cuda {

class CudaAllocation : public Allocation {
 public:
  using Allocation::Allocation;

  // Where kernels find a range of it. Throws DeviceError.
  virtual DevicePointer device_address(std::size_t offset, std::size_t nbytes) = 0;
  // Copies a range of it to the host. Throws DeviceError.
  virtual void download(std::size_t offset, std::span<std::byte> destination) = 0;
};

// A block of the GPU's memory. The context is current where it is made.
class DeviceMemory {
 public:
  // Throws OutOfMemoryError.
  DeviceMemory(std::shared_ptr<DeviceObjects> objects, std::size_t nbytes);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  DeviceObjects& objects() const { return *objects_; }
  const std::shared_ptr<DeviceObjects>& shared_objects() const { return objects_; }
  DevicePointer address() const { return address_; }
  // All of these return once it is done. Throw DeviceError.
  void clear();
  void upload(std::span<const std::byte> bytes);
  void download(std::size_t offset, std::span<std::byte> destination) const;

 private:
  std::shared_ptr<DeviceObjects> objects_;
  std::size_t nbytes_;
  DevicePointer address_ = 0;
};

// The GPU's memory, which the CPU cannot address.
class DeviceAllocation final : public CudaAllocation {
 public:
  DeviceAllocation(std::shared_ptr<DeviceObjects> objects, std::size_t nbytes)
      : CudaAllocation(nbytes, false), memory_(make_process_owned<DeviceMemory>(std::move(objects), nbytes)) {}

  std::byte* address() override { return nullptr; }
  std::unique_ptr<Transfer> transfer() override;
  DevicePointer device_address(std::size_t offset, std::size_t) override { return memory_->address() + offset; }
  void download(std::size_t offset, std::span<std::byte> destination) override {
    memory_->download(offset, destination);
  }
  DeviceMemory& memory() { return *memory_; }

 private:
  ProcessOwned<DeviceMemory> memory_;
};

// Page-locked memory of the host, zeroed; kernels reach it over the bus, where each access takes a microsecond. What
// they only read is better copied to a mirror first, if it is small.
class HostAllocation final : public CudaAllocation {
 public:
  // `alignment`: of the address, at least to a page. Throws OutOfMemoryError.
  HostAllocation(std::shared_ptr<DeviceObjects> objects, std::size_t nbytes, std::size_t alignment);

  std::byte* address() override { return memory_->address; }
  DevicePointer device_address(std::size_t offset, std::size_t) override { return memory_->device_address + offset; }
  void download(std::size_t offset, std::span<std::byte> destination) override;
  // As many bytes in the GPU's memory, made when first asked for; 0 if there are too many. Throws OutOfMemoryError.
  DevicePointer mirror();
  // Queues the copy of all bytes to the mirror.
  Result fill_mirror(StreamHandle stream) const;

 private:
  struct Memory {
    Memory(std::shared_ptr<DeviceObjects> objects, std::size_t nbytes, std::size_t alignment);
    ~Memory();
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;

    std::shared_ptr<DeviceObjects> objects;
    void* allocated = nullptr;
    std::byte* address = nullptr;
    DevicePointer device_address = 0;
    std::mutex mutex;
    std::unique_ptr<DeviceMemory> mirror;
  };
  ProcessOwned<Memory> memory_;
};

// Memory of the host that only the host addresses; the GPU gets copies of it.
class PageableAllocation final : public CudaAllocation {
 public:
  // Throws OutOfMemoryError.
  explicit PageableAllocation(std::size_t nbytes) : CudaAllocation(nbytes, true), pages_(nbytes) {}

  std::byte* address() override { return pages_.address(); }
  // Throws DeviceError.
  DevicePointer device_address(std::size_t offset, std::size_t nbytes) override;
  void download(std::size_t offset, std::span<std::byte> destination) override;

 private:
  Pages pages_;
};

// A mapped file, each range of which comes to the GPU when a kernel is first given it.
class MappedAllocation final : public CudaAllocation {
 public:
  MappedAllocation(std::shared_ptr<DeviceObjects> objects, std::shared_ptr<Mapping> mapping);

  std::byte* address() override;
  bool writable() const override { return false; }
  DevicePointer device_address(std::size_t offset, std::size_t nbytes) override;
  void download(std::size_t offset, std::span<std::byte> destination) override;

 private:
  struct Parts {
    std::mutex mutex;
    std::map<std::pair<std::size_t, std::size_t>, std::unique_ptr<DeviceMemory>> by_range;
  };

  std::shared_ptr<DeviceObjects> objects_;
  std::shared_ptr<Mapping> mapping_;
  ProcessOwned<Parts> parts_;
};

}  // namespace moeflux::cuda
