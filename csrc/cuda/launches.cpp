#include "cuda/launches.h"

#include "error.h"

namespace moeflux::cuda {
namespace {

std::size_t volume(const gpu::Extent& extent) { return std::size_t{extent.x} * extent.y * extent.z; }

}  // namespace

Launches::Launches(const DeviceObjects& objects, const std::vector<Command>& commands, Step step)
    : objects_(objects), step_(step) {
  launches_.reserve(commands.size());
  prepare(commands);
}

void Launches::prepare(const std::vector<Command>& commands) {
  for (const Command& command : commands) {
    std::visit([this](const auto& alternative) { prepare(alternative); }, command);
  }
}

void Launches::prepare(const DispatchCommand& command) {
  CudaPipeline& pipeline = *command.pipeline;
  const gpu::Launch launch = pipeline.description().launch({pipeline.constants(), command.params.data(), step_});
  const LoadedFunction& function = pipeline.function(launch.function);
  if (volume(launch.threads) > function.most_threads()) {
    throw PipelineError(pipeline.kernel(), std::string(launch.function) + " needs " +
                                               std::to_string(volume(launch.threads)) +
                                               " threads in a threadgroup, the device gives it " +
                                               std::to_string(function.most_threads()));
  }
  launches_.emplace_back(Kernel{&command, launch, function.handle()});
}

Result Launches::enqueue(Marks* marks) const {
  for (const Launch& launch : launches_) {
    const Result result = std::visit([this](const auto& alternative) { return enqueue(alternative); }, launch);
    if (result != kSuccess) return result;
    if (marks == nullptr) continue;
    Event end(objects_);
    const Result recorded = objects_.call().event_record(end.get(), objects_.commands());
    if (recorded != kSuccess) return recorded;
    marks->names.push_back(name_of(launch));
    marks->ends.push_back(std::move(end));
  }
  return kSuccess;
}

Result Launches::enqueue(const Kernel& kernel) const {
  const auto& [threadgroups, threads] = std::pair(kernel.launch.threadgroups, kernel.launch.threads);
  if (volume(threadgroups) == 0) return kSuccess;
  // In the order of the kernels' arguments; a kernel that has no use for the last ones does not take them.
  std::vector<void*> arguments;
  arguments.reserve(kernel.command->buffers.size() + 2);
  for (const BoundBuffer& buffer : kernel.command->buffers) {
    arguments.push_back(const_cast<DevicePointer*>(&buffer.address));
  }
  if (!kernel.command->params.empty()) arguments.push_back(const_cast<std::byte*>(kernel.command->params.data()));
  arguments.push_back(const_cast<Step*>(&step_));
  return objects_.call().launch(kernel.function, threadgroups.x, threadgroups.y, threadgroups.z, threads.x, threads.y,
                                threads.z, 0, objects_.commands(), arguments.data(), nullptr);
}

Result Launches::enqueue(const CopyCommand* command) const {
  if (command->nbytes == 0) return kSuccess;
  return objects_.call().copy_async(command->destination.address, command->source.address, command->nbytes,
                                    objects_.commands());
}

Result Launches::enqueue(const ZeroCommand* command) const {
  if (command->nbytes == 0) return kSuccess;
  return objects_.call().fill_async(command->destination.address, 0, command->nbytes, objects_.commands());
}

std::string Launches::name_of(const Launch& launch) {
  if (const auto* kernel = std::get_if<Kernel>(&launch)) return kernel->command->pipeline->kernel();
  return std::holds_alternative<const CopyCommand*>(launch) ? "copy" : "zero";
}

}  // namespace moeflux::cuda
