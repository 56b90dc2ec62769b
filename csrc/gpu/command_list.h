// Lists of checked dispatches, copies and replays, before a GPU backend submits them. Launches nothing.
//
// A Backend says what it is called (name), what it runs (Pipeline), what a buffer is to it (BoundBuffer, bound), what
// it wants of a buffer that is copied or cleared (check_transfer), and what it keeps with a recording (Prepared,
// prepared).
#pragma once
#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "device.h"
#include "error.h"
#include "gpu/geometry.h"

namespace moeflux::gpu {

template <typename Backend>
class GpuRecording;

template <typename Backend>
struct DispatchCommand {
  std::shared_ptr<typename Backend::Pipeline> pipeline;
  std::vector<typename Backend::BoundBuffer> buffers;
  std::vector<std::byte> params;
};

template <typename Backend>
struct CopyCommand {
  typename Backend::BoundBuffer source;
  typename Backend::BoundBuffer destination;
  std::size_t nbytes;
};

template <typename Backend>
struct ZeroCommand {
  typename Backend::BoundBuffer destination;
  std::size_t nbytes;
};

template <typename Backend>
struct ReplayCommand {
  std::shared_ptr<GpuRecording<Backend>> recording;
};

template <typename Backend>
using Command =
    std::variant<DispatchCommand<Backend>, CopyCommand<Backend>, ZeroCommand<Backend>, ReplayCommand<Backend>>;

// Keeps the buffers, pipelines and recordings that its commands use.
template <typename Backend>
class CommandList {
 public:
  void dispatch(std::shared_ptr<Pipeline> pipeline, std::span<const Buffer> buffers,
                std::span<const std::byte> params) {
    auto own = of_backend<typename Backend::Pipeline>(std::move(pipeline), "run a pipeline");
    const Kernel& kernel = own->description();
    if (buffers.size() != kernel.n_buffers) {
      throw DeviceError("kernel " + own->kernel() + " needs " + std::to_string(kernel.n_buffers) + " buffers, got " +
                        std::to_string(buffers.size()));
    }
    if (params.size() != kernel.params_nbytes) {
      throw DeviceError("kernel " + own->kernel() + " needs params of " + std::to_string(kernel.params_nbytes) +
                        " bytes, got " + std::to_string(params.size()));
    }
    DispatchCommand<Backend> command{std::move(own), {}, {params.begin(), params.end()}};
    command.buffers.reserve(buffers.size());
    for (const Buffer& buffer : buffers) command.buffers.push_back(Backend::bound(buffer));
    commands_.emplace_back(std::move(command));
  }

  void copy(const Buffer& source, const Buffer& destination) {
    if (source.nbytes != destination.nbytes) {
      throw DeviceError("copy needs buffers of equal size, got " + std::to_string(source.nbytes) + " and " +
                        std::to_string(destination.nbytes) + " bytes");
    }
    CopyCommand<Backend> command{Backend::bound(source), writable(destination), source.nbytes};
    if (overlap(source, destination)) {
      throw DeviceError("copy of " + std::to_string(source.nbytes) + " bytes between ranges that overlap, at offsets " +
                        std::to_string(source.offset) + " and " + std::to_string(destination.offset));
    }
    Backend::check_transfer("copy", source);
    Backend::check_transfer("copy", destination);
    commands_.emplace_back(std::move(command));
  }

  void zero(const Buffer& destination) {
    ZeroCommand<Backend> command{writable(destination), destination.nbytes};
    Backend::check_transfer("zero", destination);
    commands_.emplace_back(std::move(command));
  }

  void replay(std::shared_ptr<Recording> recording) {
    auto own = of_backend<GpuRecording<Backend>>(std::move(recording), "replay a recording");
    own->freeze();
    commands_.emplace_back(ReplayCommand<Backend>{std::move(own)});
  }

  const std::vector<Command<Backend>>& commands() const { return commands_; }

 private:
  template <typename Own, typename Any>
  static std::shared_ptr<Own> of_backend(std::shared_ptr<Any> any, const char* what) {
    auto own = std::dynamic_pointer_cast<Own>(std::move(any));
    if (!own) throw DeviceError(std::string("the ") + Backend::name + " device cannot " + what + " of another device");
    return own;
  }

  // Refused before it is bound: binding may upload a mapped file.
  static typename Backend::BoundBuffer writable(const Buffer& buffer) {
    if (!buffer.allocation->writable()) throw DeviceError("a mapped file is read-only and cannot be written to");
    return Backend::bound(buffer);
  }

  static bool overlap(const Buffer& one, const Buffer& other) {
    return one.allocation == other.allocation && one.offset < other.offset + other.nbytes &&
           other.offset < one.offset + one.nbytes;
  }

  std::vector<Command<Backend>> commands_;
};

template <typename Backend>
class GpuRecording final : public Recording {
 public:
  void dispatch(std::shared_ptr<Pipeline> pipeline, std::span<const Buffer> buffers,
                std::span<const std::byte> params) override {
    open_list().dispatch(std::move(pipeline), buffers, params);
  }
  void copy(const Buffer& source, const Buffer& destination) override { open_list().copy(source, destination); }
  void zero(const Buffer& destination) override { open_list().zero(destination); }
  std::size_t size() const override { return list_.commands().size(); }

  // From here on the recording is immutable, so that any thread may submit it.
  void freeze() { frozen_ = true; }
  const std::vector<Command<Backend>>& commands() const { return list_.commands(); }
  // What the backend has made of the commands; used from the first replay on.
  typename Backend::Prepared& prepared() { return prepared_; }

 private:
  CommandList<Backend>& open_list() {
    if (frozen_) throw DeviceError("a recording cannot change after its first replay");
    return list_;
  }

  CommandList<Backend> list_;
  typename Backend::Prepared prepared_ = Backend::prepared();  // goes before the commands that it refers to
  std::atomic<bool> frozen_{false};
};

}  // namespace moeflux::gpu
