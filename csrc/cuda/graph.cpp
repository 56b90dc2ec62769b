#include "cuda/graph.h"

#include <algorithm>
#include <utility>

namespace moeflux::cuda {
namespace {

// What a kernel does to a range of memory.
struct Use {
  DevicePointer first;
  DevicePointer end;
  bool writes;
};

std::vector<Use> uses_of(const KernelLaunch& kernel) {
  std::vector<Use> uses;
  for (std::size_t i = 0; i < kernel.addresses.size(); ++i) {
    const DevicePointer first = kernel.addresses[i];
    uses.push_back({first, first + kernel.command->buffers[i].nbytes, !kernel.function->only_reads(i)});
  }
  return uses;
}

bool in_conflict(const std::vector<Use>& earlier, const std::vector<Use>& later) {
  return std::ranges::any_of(earlier, [&later](const Use& one) {
    return std::ranges::any_of(later, [&one](const Use& other) {
      return (one.writes || other.writes) && one.first < other.end && other.first < one.end;
    });
  });
}

// For each kernel those that it has to wait for, without what they wait for themselves.
std::vector<std::vector<std::size_t>> dependencies(const std::vector<std::vector<Use>>& kernels) {
  std::vector<std::vector<std::size_t>> direct(kernels.size());
  std::vector<std::vector<bool>> before(kernels.size(), std::vector<bool>(kernels.size()));
  for (std::size_t later = 0; later < kernels.size(); ++later) {
    for (std::size_t i = later; i-- > 0;) {
      if (before[later][i] || !in_conflict(kernels[i], kernels[later])) continue;
      direct[later].push_back(i);
      before[later][i] = true;
      for (std::size_t j = 0; j < i; ++j) before[later][j] = before[later][j] || before[i][j];
    }
  }
  return direct;
}

KernelNode node_of(const KernelLaunch& kernel, const gpu::Launch& place, std::vector<void*>& arguments) {
  const auto& [function, grid, block] = place;
  return {kernel.function->handle(), grid.x,  grid.y,  grid.z, block.x, block.y, block.z, 0,
          arguments.data(),          nullptr, nullptr, nullptr};
}

bool same(const gpu::Extent& one, const gpu::Extent& other) {
  return one.x == other.x && one.y == other.y && one.z == other.z;
}

bool same(const gpu::Launch& one, const gpu::Launch& other) {
  return same(one.threadgroups, other.threadgroups) && same(one.threads, other.threads);
}

bool same(const Step& one, const Step& other) {
  return one.position == other.position && one.n_tokens == other.n_tokens && one.prefill == other.prefill;
}

}  // namespace

std::unique_ptr<Graph> Graph::make(std::shared_ptr<DeviceObjects> objects, Launches launches, Step step) {
  if (objects->driver().graphs() == nullptr) return nullptr;
  // A launch alone costs no more without a graph.
  if (launches.launches().size() < 2) return nullptr;
  for (const Launches::Launch& launch : launches.launches()) {
    const auto* const kernel = std::get_if<KernelLaunch>(&launch);
    if (kernel == nullptr || volume(kernel->launch.threadgroups) == 0) return nullptr;
  }
  std::unique_ptr<Graph> graph(new Graph(std::move(objects), std::move(launches)));
  return graph->build(step) == kSuccess ? std::move(graph) : nullptr;
}

Graph::~Graph() {
  const ReleaseScope scope(*objects_);
  if (!scope.usable()) return;
  const GraphFunctions& call = *objects_->driver().graphs();
  if (executable_ != nullptr) call.destroy_executable(executable_);
  if (graph_ != nullptr) call.destroy(graph_);
}

Result Graph::build(Step step) {
  const GraphFunctions& call = *objects_->driver().graphs();
  Result result = call.create(&graph_, 0);
  std::vector<std::vector<Use>> uses;
  for (std::size_t i = 0; i < launches_.launches().size(); ++i) uses.push_back(uses_of(kernel(i)));
  const std::vector<std::vector<std::size_t>> waits_for = dependencies(uses);
  for (std::size_t i = 0; i < uses.size() && result == kSuccess; ++i) {
    std::vector<GraphNodeHandle> after;
    for (const std::size_t earlier : waits_for[i]) after.push_back(nodes_[earlier]);
    std::vector<void*> arguments = kernel(i).arguments(step);
    const KernelNode node = node_of(kernel(i), kernel(i).launch, arguments);
    result = call.add_kernel(&nodes_.emplace_back(), graph_, after.data(), after.size(), &node);
    places_.push_back(kernel(i).launch);
  }
  if (result == kSuccess) result = call.instantiate(&executable_, graph_, 0);
  step_ = step;
  return result;
}

std::optional<Places> Graph::places(Step step) const {
  Places places;
  places.reserve(nodes_.size());
  for (std::size_t i = 0; i < launches_.launches().size(); ++i) {
    places.push_back(launch_of(*kernel(i).command, step));
    if (places.back().function != kernel(i).launch.function || volume(places.back().threadgroups) == 0) return {};
  }
  return places;
}

Result Graph::update(Step step, const Places& places) {
  const bool same_step = step_ && same(*step_, step);
  step_.reset();
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    if (same(places[i], places_[i]) && (same_step || !kernel(i).function->takes_step())) continue;
    std::vector<void*> arguments = kernel(i).arguments(step);
    const KernelNode node = node_of(kernel(i), places[i], arguments);
    const Result result = objects_->driver().graphs()->set_kernel(executable_, nodes_[i], &node);
    if (result != kSuccess) return result;
    places_[i] = places[i];
  }
  step_ = step;
  return kSuccess;
}

Result Graph::enqueue(Step step, const Places& places) {
  Result result = update(step, places);
  if (result == kSuccess) result = launches_.fill_mirrors();
  return result == kSuccess ? objects_->driver().graphs()->launch(executable_, objects_->commands()) : result;
}

Graph* RecordedGraph::find(const std::shared_ptr<DeviceObjects>& objects, const std::vector<Command>& commands,
                           Step step) {
  const std::lock_guard lock(state_->mutex);
  State& state = *state_;
  if (state.graph || state.tried) return state.graph.get();
  const bool again = state.first && state.first->n_tokens == step.n_tokens && state.first->prefill == step.prefill;
  state.first = step;
  if (!again) return nullptr;
  state.tried = true;
  Launches launches(*objects, step);
  for (const Command& command : commands) {
    const auto* const dispatch = std::get_if<DispatchCommand>(&command);
    if (dispatch == nullptr) return nullptr;
    launches.add(*dispatch);
  }
  launches.use_mirrors();
  state.graph = Graph::make(objects, std::move(launches), step);
  return state.graph.get();
}

}  // namespace moeflux::cuda
