#include "cpu/commands.h"

#include <algorithm>
#include <cstring>

#include "cpu/thread_pool.h"
#include "error.h"

namespace moeflux::cpu {
namespace {

// Bytes that one thread copies or clears at a time.
constexpr std::size_t kCopyGrain = std::size_t{64} << 10;

std::string join(const auto& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + std::string(name);
  return text.empty() ? "none" : text;
}

void check_constants(const Kernel& kernel, const Constants& constants) {
  std::vector<std::string> got;
  for (const auto& [name, value] : constants) got.push_back(name);
  std::vector<std::string> wanted(kernel.constants.begin(), kernel.constants.end());
  std::ranges::sort(wanted);
  if (got == wanted) return;
  throw DeviceError("kernel " + std::string(kernel.name) + " needs the constants " + join(wanted) + ", got " +
                    join(got));
}

std::byte* checked_address(const Buffer& buffer) {
  if (!buffer.allocation || buffer.allocation->address() == nullptr) {
    throw DeviceError("the cpu device cannot address a buffer of another device");
  }
  return buffer.address();
}

void check_writable(const Buffer& buffer) {
  checked_address(buffer);
  if (!buffer.allocation->writable()) throw DeviceError("a mapped file is read-only and cannot be written to");
}

}  // namespace

CpuPipeline::CpuPipeline(const Kernel& kernel, Constants constants, Target target)
    : name_(kernel.name),
      constants_(std::move(constants)),
      n_buffers_(kernel.n_buffers),
      params_nbytes_(kernel.params_nbytes) {
  check_constants(kernel, constants_);
  function_ = kernel.specialise(constants_, target);
}

void CpuPipeline::run(const Arguments& arguments, ThreadPool& threads) const {
  try {
    function_(arguments, threads);
  } catch (const std::exception& error) {
    throw DeviceError("kernel " + name_ + " failed: " + error.what());
  }
  threads.release_outgrown_scratch();
}

void CommandList::dispatch(std::shared_ptr<Pipeline> pipeline, std::span<const Buffer> buffers,
                           std::span<const std::byte> params) {
  auto cpu_pipeline = std::dynamic_pointer_cast<CpuPipeline>(std::move(pipeline));
  if (!cpu_pipeline) throw DeviceError("the cpu device cannot run a pipeline of another device");
  if (buffers.size() != cpu_pipeline->n_buffers()) {
    throw DeviceError("kernel " + cpu_pipeline->kernel() + " needs " + std::to_string(cpu_pipeline->n_buffers()) +
                      " buffers, got " + std::to_string(buffers.size()));
  }
  if (params.size() != cpu_pipeline->params_nbytes()) {
    throw DeviceError("kernel " + cpu_pipeline->kernel() + " needs params of " +
                      std::to_string(cpu_pipeline->params_nbytes()) + " bytes, got " + std::to_string(params.size()));
  }
  Dispatch dispatch{std::move(cpu_pipeline), {}, {}, {params.begin(), params.end()}};
  dispatch.allocations.reserve(buffers.size());
  dispatch.addresses.reserve(buffers.size());
  for (const Buffer& buffer : buffers) {
    dispatch.addresses.push_back(checked_address(buffer));
    dispatch.allocations.push_back(buffer.allocation);
  }
  commands_.emplace_back(std::move(dispatch));
}

void CommandList::copy(const Buffer& source, const Buffer& destination) {
  if (source.nbytes != destination.nbytes) {
    throw DeviceError("copy needs buffers of equal size, got " + std::to_string(source.nbytes) + " and " +
                      std::to_string(destination.nbytes) + " bytes");
  }
  checked_address(source);
  check_writable(destination);
  const bool same = source.allocation == destination.allocation;
  if (same && source.offset < destination.offset + destination.nbytes &&
      destination.offset < source.offset + source.nbytes) {
    throw DeviceError("copy of " + std::to_string(source.nbytes) + " bytes between ranges that overlap, at offsets " +
                      std::to_string(source.offset) + " and " + std::to_string(destination.offset));
  }
  commands_.emplace_back(Copy{source, destination});
}

void CommandList::zero(const Buffer& destination) {
  check_writable(destination);
  commands_.emplace_back(Zero{destination});
}

void CommandList::replay(std::shared_ptr<Recording> recording) {
  auto cpu_recording = std::dynamic_pointer_cast<CpuRecording>(std::move(recording));
  if (!cpu_recording) throw DeviceError("the cpu device cannot replay a recording of another device");
  cpu_recording->freeze();
  commands_.emplace_back(Replay{std::move(cpu_recording)});
}

void CommandList::run(Step step, ThreadPool& threads, Timings* timings) const {
  for (const auto& command : commands_) {
    std::visit([&](const auto& alternative) { run(alternative, step, threads, timings); }, command);
  }
}

void CommandList::run(const auto& command, Step step, ThreadPool& threads, Timings* timings) {
  const double begin = timings ? timings->now() : 0;
  run(command, step, threads);
  if (timings) timings->kernels.push_back({command.name(), begin, timings->now()});
}

void CommandList::run(const Dispatch& dispatch, Step step, ThreadPool& threads) {
  dispatch.pipeline->run(Arguments{dispatch.addresses, dispatch.params.data(), step}, threads);
}

void CommandList::run(const Copy& copy, Step, ThreadPool& threads) {
  threads.parallel_for(copy.source.nbytes, kCopyGrain, [&](std::size_t begin, std::size_t end) {
    std::memcpy(copy.destination.address() + begin, copy.source.address() + begin, end - begin);
  });
}

void CommandList::run(const Zero& zero, Step, ThreadPool& threads) {
  threads.parallel_for(zero.destination.nbytes, kCopyGrain, [&](std::size_t begin, std::size_t end) {
    std::memset(zero.destination.address() + begin, 0, end - begin);
  });
}

void CommandList::run(const Replay& replay, Step step, ThreadPool& threads, Timings* timings) {
  replay.recording->commands().run(step, threads, timings);
}

CommandList& CpuRecording::open_commands() {
  if (frozen_) throw DeviceError("a recording cannot change after its first replay");
  return commands_;
}

void CpuRecording::dispatch(std::shared_ptr<Pipeline> pipeline, std::span<const Buffer> buffers,
                            std::span<const std::byte> params) {
  open_commands().dispatch(std::move(pipeline), buffers, params);
}

void CpuRecording::copy(const Buffer& source, const Buffer& destination) { open_commands().copy(source, destination); }

void CpuRecording::zero(const Buffer& destination) { open_commands().zero(destination); }

}  // namespace moeflux::cpu
