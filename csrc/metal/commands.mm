#include "metal/commands.h"

#include "error.h"

namespace moeflux::metal {
namespace {

// What Metal's blits want of offsets and sizes on macOS.
constexpr std::size_t kBlitAlignment = 4;

BoundBuffer bound(const Buffer& buffer) {
  auto allocation = std::dynamic_pointer_cast<MetalAllocation>(buffer.allocation);
  if (!allocation) throw DeviceError("the metal device cannot address a buffer of another device");
  return {std::move(allocation), buffer.offset};
}

BoundBuffer writable(const Buffer& buffer) {
  BoundBuffer destination = bound(buffer);
  if (!destination.allocation->writable()) throw DeviceError("a mapped file is read-only and cannot be written to");
  return destination;
}

void check_blit(const char* what, const Buffer& buffer) {
  if (buffer.offset % kBlitAlignment == 0 && buffer.nbytes % kBlitAlignment == 0) return;
  throw DeviceError(std::string(what) + " needs offsets and sizes in multiples of " + std::to_string(kBlitAlignment) +
                    " bytes, got " + std::to_string(buffer.nbytes) + " bytes at offset " +
                    std::to_string(buffer.offset));
}

bool overlap(const Buffer& one, const Buffer& other) {
  return one.allocation == other.allocation && one.offset < other.offset + other.nbytes &&
         other.offset < one.offset + one.nbytes;
}

}  // namespace

void CommandList::dispatch(std::shared_ptr<Pipeline> pipeline, std::span<const Buffer> buffers,
                           std::span<const std::byte> params) {
  auto metal_pipeline = std::dynamic_pointer_cast<MetalPipeline>(std::move(pipeline));
  if (!metal_pipeline) throw DeviceError("the metal device cannot run a pipeline of another device");
  const Kernel& kernel = metal_pipeline->description();
  if (buffers.size() != kernel.n_buffers) {
    throw DeviceError("kernel " + metal_pipeline->kernel() + " needs " + std::to_string(kernel.n_buffers) +
                      " buffers, got " + std::to_string(buffers.size()));
  }
  if (params.size() != kernel.params_nbytes) {
    throw DeviceError("kernel " + metal_pipeline->kernel() + " needs params of " +
                      std::to_string(kernel.params_nbytes) + " bytes, got " + std::to_string(params.size()));
  }
  DispatchCommand command{std::move(metal_pipeline), {}, {params.begin(), params.end()}};
  command.buffers.reserve(buffers.size());
  for (const Buffer& buffer : buffers) command.buffers.push_back(bound(buffer));
  commands_.emplace_back(std::move(command));
}

void CommandList::copy(const Buffer& source, const Buffer& destination) {
  if (source.nbytes != destination.nbytes) {
    throw DeviceError("copy needs buffers of equal size, got " + std::to_string(source.nbytes) + " and " +
                      std::to_string(destination.nbytes) + " bytes");
  }
  CopyCommand command{bound(source), writable(destination), source.nbytes};
  if (overlap(source, destination)) {
    throw DeviceError("copy of " + std::to_string(source.nbytes) + " bytes between ranges that overlap, at offsets " +
                      std::to_string(source.offset) + " and " + std::to_string(destination.offset));
  }
  check_blit("copy", source);
  check_blit("copy", destination);
  commands_.emplace_back(std::move(command));
}

void CommandList::zero(const Buffer& destination) {
  ZeroCommand command{writable(destination), destination.nbytes};
  check_blit("zero", destination);
  commands_.emplace_back(std::move(command));
}

void CommandList::replay(std::shared_ptr<Recording> recording) {
  auto metal_recording = std::dynamic_pointer_cast<MetalRecording>(std::move(recording));
  if (!metal_recording) throw DeviceError("the metal device cannot replay a recording of another device");
  metal_recording->freeze();
  commands_.emplace_back(ReplayCommand{std::move(metal_recording)});
}

CommandList& MetalRecording::open_list() {
  if (frozen_) throw DeviceError("a recording cannot change after its first replay");
  return list_;
}

void MetalRecording::dispatch(std::shared_ptr<Pipeline> pipeline, std::span<const Buffer> buffers,
                              std::span<const std::byte> params) {
  open_list().dispatch(std::move(pipeline), buffers, params);
}

void MetalRecording::copy(const Buffer& source, const Buffer& destination) { open_list().copy(source, destination); }

void MetalRecording::zero(const Buffer& destination) { open_list().zero(destination); }

}  // namespace moeflux::metal
