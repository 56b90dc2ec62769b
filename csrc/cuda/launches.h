// From checked commands to calls of the driver: first everything that can be refused, then the launches.
#pragma once
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "cuda/commands.h"

namespace moeflux::cuda {

// Events between commands, and what ran between them.
struct Marks {
  std::vector<std::string> names;
  std::vector<Event> ends;
};

// A dispatch, ready to be launched. Refers to its command.
struct KernelLaunch {
  const DispatchCommand* command;
  gpu::Launch launch;
  const LoadedFunction* function;
  std::vector<DevicePointer> addresses;  // of its buffers

  // As the driver takes them: addresses of the kernel's arguments, in their order. A kernel that has no use for the
  // last ones does not take them.
  std::vector<void*> arguments(const Step& step) const;
};

// How a kernel is launched in a step. Throws DeviceError.
gpu::Launch launch_of(const DispatchCommand& command, Step step);
std::size_t volume(const gpu::Extent& extent);

// Dispatches, copies and clears in a row, ready to be launched. Refers to their commands, which outlive it.
class Launches {
 public:
  using Launch = std::variant<KernelLaunch, const CopyCommand*, const ZeroCommand*>;

  Launches(DeviceObjects& objects, Step step) : objects_(&objects), step_(step) {}

  // Compiles what is not compiled yet. The context is current. Throws DeviceError, PipelineError or CompileError.
  void add(const DispatchCommand& command);
  void add(const CopyCommand& command) { launches_.emplace_back(&command); }
  void add(const ZeroCommand& command) { launches_.emplace_back(&command); }
  // Lets kernels read small buffers of the host that none of them writes in mirrors. Once all are added. Throws
  // OutOfMemoryError.
  void use_mirrors();

  const std::vector<Launch>& launches() const { return launches_; }
  // Queues, on the stream of the commands, what fills the mirrors.
  Result fill_mirrors() const;
  // Queues the launches, with an event after each if `marks` is not null. Stops at the first that the driver refuses
  // and gives its result.
  Result enqueue(Marks* marks) const;

 private:
  Result enqueue(const KernelLaunch& kernel) const;
  Result enqueue(const CopyCommand* command) const;
  Result enqueue(const ZeroCommand* command) const;
  static std::string name_of(const Launch& launch);

  DeviceObjects* objects_;
  Step step_;
  std::vector<Launch> launches_;
  std::set<HostAllocation*> mirrored_;
};

}  // namespace moeflux::cuda
