// Lists of checked dispatches, copies and replays, before they are submitted. Launches nothing.
#pragma once
#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "cuda/allocation.h"
#include "cuda/library.h"

namespace moeflux::cuda {

class CudaRecording;

struct BoundBuffer {
  std::shared_ptr<CudaAllocation> allocation;
  std::size_t offset;
  DevicePointer address;
  HostAllocation* host;  // the allocation, if it is one of the host
};

struct DispatchCommand {
  std::shared_ptr<CudaPipeline> pipeline;
  std::vector<BoundBuffer> buffers;
  std::vector<std::byte> params;
};

struct CopyCommand {
  BoundBuffer source;
  BoundBuffer destination;
  std::size_t nbytes;
};

struct ZeroCommand {
  BoundBuffer destination;
  std::size_t nbytes;
};

struct ReplayCommand {
  std::shared_ptr<CudaRecording> recording;
};

using Command = std::variant<DispatchCommand, CopyCommand, ZeroCommand, ReplayCommand>;

// Keeps the buffers, pipelines and recordings that its commands use.
class CommandList {
 public:
  void dispatch(std::shared_ptr<Pipeline> pipeline, std::span<const Buffer> buffers, std::span<const std::byte> params);
  void copy(const Buffer& source, const Buffer& destination);
  void zero(const Buffer& destination);
  void replay(std::shared_ptr<Recording> recording);

  const std::vector<Command>& commands() const { return commands_; }

 private:
  std::vector<Command> commands_;
};

class CudaRecording final : public Recording {
 public:
  void dispatch(std::shared_ptr<Pipeline> pipeline, std::span<const Buffer> buffers,
                std::span<const std::byte> params) override;
  void copy(const Buffer& source, const Buffer& destination) override;
  void zero(const Buffer& destination) override;
  std::size_t size() const override { return list_.commands().size(); }

  // From here on the recording is immutable, so that any thread may submit it.
  void freeze() { frozen_ = true; }
  const std::vector<Command>& commands() const { return list_.commands(); }

 private:
  CommandList& open_list();

  CommandList list_;
  std::atomic<bool> frozen_{false};
};

}  // namespace moeflux::cuda
