// How reading threads bring bytes to the GPU: through page-locked blocks, each copied while the next is filled.
#pragma once
#include <array>
#include <memory>

#include "cuda/objects.h"
#include "device.h"

namespace moeflux::cuda {

// Two page-locked blocks and a stream of their own, for one thread at a time.
class StagingLane {
 public:
  // Of the host, for all blocks.
  static constexpr std::size_t kNbytes = std::size_t{2} << 20;

  struct Block {
    explicit Block(DeviceObjects& objects) : sent(objects) {}

    std::byte* address = nullptr;
    Event sent;
    bool is_under_way = false;
  };

  // The context is current. Throws OutOfMemoryError, DeviceError.
  explicit StagingLane(DeviceObjects& objects);
  ~StagingLane();
  StagingLane(const StagingLane&) = delete;
  StagingLane& operator=(const StagingLane&) = delete;

  // The block to be filled next, once its last copy has ended. Throws DeviceError.
  Block& block();
  void turn() { next_ = 1 - next_; }
  StreamHandle stream() const { return stream_; }
  // What was queued last is the block's copy. After a failure nothing is under way.
  Result mark(Block& block);
  // Blocks until the block's copy has ended. After a failure nothing is under way.
  Result wait(Block& block);
  // Blocks until no copy is under way, and gives the first failure.
  Result finish();

 private:
  DeviceObjects& objects_;
  void* allocated_ = nullptr;
  StreamHandle stream_ = nullptr;
  std::array<Block, 2> blocks_;
  std::size_t next_ = 0;
};

class CudaTransfer final : public Transfer {
 public:
  // To and from an allocation that begins at `address`. Throws OutOfMemoryError, DeviceError.
  CudaTransfer(std::shared_ptr<DeviceObjects> objects, DevicePointer address);
  ~CudaTransfer() override;

  std::span<std::byte> block() override;
  void send(std::size_t offset, std::size_t nbytes) override;
  void send_from(std::span<const std::byte> bytes, std::size_t offset) override;
  void finish() override;
  std::span<const std::byte> fetch(std::size_t offset, std::size_t nbytes) override;

 private:
  // As the copy of that block, which ends before another may have it.
  void copy(StagingLane::Block& block, const std::byte* source, std::size_t offset, std::size_t nbytes);

  std::shared_ptr<DeviceObjects> objects_;
  DevicePointer address_;
  ContextScope scope_;
  std::unique_ptr<StagingLane> lane_;
};

}  // namespace moeflux::cuda
