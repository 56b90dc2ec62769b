// What one submission launches: recordings as graphs where there are such, everything else command by command.
#pragma once
#include <memory>
#include <variant>
#include <vector>

#include "cuda/graph.h"
#include "cuda/launches.h"

namespace moeflux::cuda {

// Refers to the commands, which outlive it.
class Work {
 public:
  // Separately: each command of a recording by itself, so that it can be timed.
  enum class Replays { as_graphs, separately };

  // The context is current. Throws DeviceError, PipelineError or CompileError.
  Work(std::shared_ptr<DeviceObjects> objects, const std::vector<Command>& commands, Step step, Replays replays);

  // Queues all of it on the stream of the commands, with an event after each command if `marks` is not null. Stops at
  // the first call that the driver refuses and gives its result. One thread at a time.
  Result enqueue(Marks* marks);

 private:
  struct GraphWork {
    Graph* graph;
    Places places;
  };

  template <typename Single>
  void add(const Single& command) {
    open_launches().add(command);
  }
  void add(const ReplayCommand& command);
  void add(const std::vector<Command>& commands);
  // Those behind all that was added.
  Launches& open_launches();
  Result enqueue(const Launches& launches, Marks* marks) const { return launches.enqueue(marks); }
  Result enqueue(const GraphWork& work, Marks*) const { return work.graph->enqueue(step_, work.places); }

  std::shared_ptr<DeviceObjects> objects_;
  Step step_;
  Replays replays_;
  std::vector<std::variant<Launches, GraphWork>> parts_;
};

}  // namespace moeflux::cuda
