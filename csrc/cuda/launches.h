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

// The commands of one submission, ready to be launched. Refers to them; they outlive it.
class Launches {
 public:
  // Compiles what is not compiled yet. The context is current. Throws DeviceError, PipelineError or CompileError.
  Launches(const DeviceObjects& objects, const std::vector<Command>& commands, Step step);

  // Queues them on the stream of the commands, with an event after each if `marks` is not null. Stops at the first
  // that the driver refuses and gives its result.
  Result enqueue(Marks* marks) const;

 private:
  struct Kernel {
    const DispatchCommand* command;
    gpu::Launch launch;
    const LoadedFunction* function;
    std::vector<DevicePointer> addresses;  // of its buffers
  };
  using Launch = std::variant<Kernel, const CopyCommand*, const ZeroCommand*>;

  void prepare(const std::vector<Command>& commands);
  void prepare(const DispatchCommand& command);
  void prepare(const CopyCommand& command) { launches_.emplace_back(&command); }
  void prepare(const ZeroCommand& command) { launches_.emplace_back(&command); }
  void prepare(const ReplayCommand& command) { prepare(command.recording->commands()); }
  // Lets kernels read small buffers of the host that none of them writes in mirrors, which are filled first.
  void use_mirrors();
  Result enqueue(const Kernel& kernel) const;
  Result enqueue(const CopyCommand* command) const;
  Result enqueue(const ZeroCommand* command) const;
  static std::string name_of(const Launch& launch);

  const DeviceObjects& objects_;
  Step step_;
  std::vector<Launch> launches_;
  std::set<HostAllocation*> mirrored_;
};

}  // namespace moeflux::cuda
