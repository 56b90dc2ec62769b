#include "cuda/commands.h"

#include "error.h"

namespace moeflux::cuda {
namespace {

BoundBuffer bound(const Buffer& buffer) {
  auto allocation = std::dynamic_pointer_cast<CudaAllocation>(buffer.allocation);
  if (!allocation) throw DeviceError("the cuda device cannot address a buffer of another device");
  const DevicePointer address = allocation->device_address(buffer.offset, buffer.nbytes);
  auto* const host = dynamic_cast<HostAllocation*>(allocation.get());
  return {std::move(allocation), buffer.offset, address, host};
}

BoundBuffer writable(const Buffer& buffer) {
  if (!buffer.allocation->writable()) throw DeviceError("a mapped file is read-only and cannot be written to");
  return bound(buffer);
}

bool overlap(const Buffer& one, const Buffer& other) {
  return one.allocation == other.allocation && one.offset < other.offset + other.nbytes &&
         other.offset < one.offset + one.nbytes;
}

}  // namespace

void CommandList::dispatch(std::shared_ptr<Pipeline> pipeline, std::span<const Buffer> buffers,
                           std::span<const std::byte> params) {
  auto cuda_pipeline = std::dynamic_pointer_cast<CudaPipeline>(std::move(pipeline));
  if (!cuda_pipeline) throw DeviceError("the cuda device cannot run a pipeline of another device");
  const gpu::Kernel& kernel = cuda_pipeline->description();
  if (buffers.size() != kernel.n_buffers) {
    throw DeviceError("kernel " + cuda_pipeline->kernel() + " needs " + std::to_string(kernel.n_buffers) +
                      " buffers, got " + std::to_string(buffers.size()));
  }
  if (params.size() != kernel.params_nbytes) {
    throw DeviceError("kernel " + cuda_pipeline->kernel() + " needs params of " + std::to_string(kernel.params_nbytes) +
                      " bytes, got " + std::to_string(params.size()));
  }
  DispatchCommand command{std::move(cuda_pipeline), {}, {params.begin(), params.end()}};
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
  commands_.emplace_back(std::move(command));
}

void CommandList::zero(const Buffer& destination) {
  ZeroCommand command{writable(destination), destination.nbytes};
  commands_.emplace_back(std::move(command));
}

void CommandList::replay(std::shared_ptr<Recording> recording) {
  auto cuda_recording = std::dynamic_pointer_cast<CudaRecording>(std::move(recording));
  if (!cuda_recording) throw DeviceError("the cuda device cannot replay a recording of another device");
  cuda_recording->freeze();
  commands_.emplace_back(ReplayCommand{std::move(cuda_recording)});
}

CommandList& CudaRecording::open_list() {
  if (frozen_) throw DeviceError("a recording cannot change after its first replay");
  return list_;
}

void CudaRecording::dispatch(std::shared_ptr<Pipeline> pipeline, std::span<const Buffer> buffers,
                             std::span<const std::byte> params) {
  open_list().dispatch(std::move(pipeline), buffers, params);
}

void CudaRecording::copy(const Buffer& source, const Buffer& destination) { open_list().copy(source, destination); }

void CudaRecording::zero(const Buffer& destination) { open_list().zero(destination); }

}  // namespace moeflux::cuda
