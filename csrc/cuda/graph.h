// Recordings as CUDA graphs: one call of the driver launches all kernels, and those that share no results run at once.
#pragma once
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "cuda/launches.h"
#include "thread.h"

namespace moeflux::cuda {

// How the kernels of a graph are launched in a step, one by one.
using Places = std::vector<gpu::Launch>;

// Kernels, each of which waits for those before it that write what it uses or use what it writes, and for no others.
class Graph {
 public:
  // Null if the launches are not all of kernels that run, or the driver refuses. The context is current.
  static std::unique_ptr<Graph> make(std::shared_ptr<DeviceObjects> objects, Launches launches, Step step);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  // Nothing if some step's kernels are others. Throws DeviceError.
  std::optional<Places> places(Step step) const;
  // Queues it for a step whose places these are. One thread at a time; the context is current.
  Result enqueue(Step step, const Places& places);

 private:
  Graph(std::shared_ptr<DeviceObjects> objects, Launches launches)
      : objects_(std::move(objects)), launches_(std::move(launches)) {}

  Result build(Step step);
  Result update(Step step, const Places& places);
  const KernelLaunch& kernel(std::size_t i) const { return std::get<KernelLaunch>(launches_.launches()[i]); }

  std::shared_ptr<DeviceObjects> objects_;
  Launches launches_;
  GraphHandle graph_ = nullptr;
  GraphExecHandle executable_ = nullptr;
  std::vector<GraphNodeHandle> nodes_;
  Places places_;             // that the nodes have
  std::optional<Step> step_;  // that they were told; nothing after a failure
};

// What a recording keeps: its graph, which is made when it runs again with as many tokens. Without one its commands are
// launched one by one, which does the same.
class RecordedGraph {
 public:
  // Null if there is none for that step. The context is current. Throws DeviceError, PipelineError or CompileError.
  Graph* find(const std::shared_ptr<DeviceObjects>& objects, const std::vector<Command>& commands, Step step);

 private:
  struct State {
    std::mutex mutex;
    std::optional<Step> first;  // step
    bool tried = false;
    std::unique_ptr<Graph> graph;
  };
  ProcessOwned<State> state_ = make_process_owned<State>();
};

}  // namespace moeflux::cuda
