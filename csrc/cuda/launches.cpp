#include "cuda/launches.h"

#include "error.h"

namespace moeflux::cuda {

std::size_t volume(const gpu::Extent& extent) { return std::size_t{extent.x} * extent.y * extent.z; }

gpu::Launch launch_of(const DispatchCommand& command, Step step) {
  const CudaPipeline& pipeline = *command.pipeline;
  return pipeline.description().launch({pipeline.constants(), command.params.data(), step});
}

std::vector<void*> KernelLaunch::arguments(const Step& step) const {
  std::vector<void*> arguments;
  arguments.reserve(addresses.size() + 2);
  for (const DevicePointer& address : addresses) arguments.push_back(const_cast<DevicePointer*>(&address));
  if (!command->params.empty()) arguments.push_back(const_cast<std::byte*>(command->params.data()));
  arguments.push_back(const_cast<Step*>(&step));
  return arguments;
}

void Launches::add(const DispatchCommand& command) {
  CudaPipeline& pipeline = *command.pipeline;
  const gpu::Launch launch = launch_of(command, step_);
  const LoadedFunction& function = pipeline.function(launch.function);
  if (volume(launch.threads) > function.most_threads()) {
    throw PipelineError(pipeline.kernel(), std::string(launch.function) + " needs " +
                                               std::to_string(volume(launch.threads)) +
                                               " threads in a threadgroup, the device gives it " +
                                               std::to_string(function.most_threads()));
  }
  std::vector<DevicePointer> addresses;
  addresses.reserve(command.buffers.size());
  for (const BoundBuffer& buffer : command.buffers) addresses.push_back(buffer.address);
  launches_.emplace_back(KernelLaunch{&command, launch, &function, std::move(addresses)});
}

void Launches::use_mirrors() {
  std::set<HostAllocation*> written;
  const auto for_each_host_buffer = [this](auto body) {
    for (Launch& launch : launches_) {
      auto* const kernel = std::get_if<KernelLaunch>(&launch);
      for (std::size_t i = 0; kernel != nullptr && i < kernel->addresses.size(); ++i) {
        if (HostAllocation* const host = kernel->command->buffers[i].host) body(*kernel, i, host);
      }
    }
  };
  for (const Launch& launch : launches_) {
    if (const auto* copy = std::get_if<const CopyCommand*>(&launch)) written.insert((*copy)->destination.host);
    if (const auto* zero = std::get_if<const ZeroCommand*>(&launch)) written.insert((*zero)->destination.host);
  }
  for_each_host_buffer([&](const KernelLaunch& kernel, std::size_t i, HostAllocation* host) {
    if (!kernel.function->only_reads(i)) written.insert(host);
  });
  for_each_host_buffer([&](KernelLaunch& kernel, std::size_t i, HostAllocation* host) {
    if (written.contains(host)) return;
    const DevicePointer mirror = host->mirror();
    if (mirror == 0) return;
    kernel.addresses[i] = mirror + kernel.command->buffers[i].offset;
    mirrored_.insert(host);
  });
}

Result Launches::fill_mirrors() const {
  for (const HostAllocation* host : mirrored_) {
    const Result result = host->fill_mirror(objects_->commands());
    if (result != kSuccess) return result;
  }
  return kSuccess;
}

Result Launches::enqueue(Marks* marks) const {
  if (const Result result = fill_mirrors(); result != kSuccess) return result;
  for (const Launch& launch : launches_) {
    const Result result = std::visit([this](const auto& alternative) { return enqueue(alternative); }, launch);
    if (result != kSuccess) return result;
    if (marks == nullptr) continue;
    Event end(*objects_);
    const Result recorded = objects_->call().event_record(end.get(), objects_->commands());
    if (recorded != kSuccess) return recorded;
    marks->names.push_back(name_of(launch));
    marks->ends.push_back(std::move(end));
  }
  return kSuccess;
}

Result Launches::enqueue(const KernelLaunch& kernel) const {
  const auto& [threadgroups, threads] = std::pair(kernel.launch.threadgroups, kernel.launch.threads);
  if (volume(threadgroups) == 0) return kSuccess;
  std::vector<void*> arguments = kernel.arguments(step_);
  return objects_->call().launch(kernel.function->handle(), threadgroups.x, threadgroups.y, threadgroups.z, threads.x,
                                 threads.y, threads.z, 0, objects_->commands(), arguments.data(), nullptr);
}

Result Launches::enqueue(const CopyCommand* command) const {
  if (command->nbytes == 0) return kSuccess;
  return objects_->call().copy_async(command->destination.address, command->source.address, command->nbytes,
                                     objects_->commands());
}

Result Launches::enqueue(const ZeroCommand* command) const {
  if (command->nbytes == 0) return kSuccess;
  return objects_->call().fill_async(command->destination.address, 0, command->nbytes, objects_->commands());
}

std::string Launches::name_of(const Launch& launch) {
  if (const auto* kernel = std::get_if<KernelLaunch>(&launch)) return kernel->command->pipeline->kernel();
  return std::holds_alternative<const CopyCommand*>(launch) ? "copy" : "zero";
}

}  // namespace moeflux::cuda
