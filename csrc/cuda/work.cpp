#include "cuda/work.h"

#include <optional>
#include <utility>

namespace moeflux::cuda {

Work::Work(std::shared_ptr<DeviceObjects> objects, const std::vector<Command>& commands, Step step, Replays replays)
    : objects_(std::move(objects)), step_(step), replays_(replays) {
  add(commands);
  for (auto& part : parts_) {
    if (auto* const launches = std::get_if<Launches>(&part)) launches->use_mirrors();
  }
}

void Work::add(const std::vector<Command>& commands) {
  for (const Command& command : commands) {
    std::visit([this](const auto& alternative) { add(alternative); }, command);
  }
}

void Work::add(const ReplayCommand& command) {
  CudaRecording& recording = *command.recording;
  if (replays_ == Replays::as_graphs) {
    Graph* const graph = recording.prepared()->find(objects_, recording.commands(), step_);
    if (graph != nullptr) {
      if (std::optional<Places> places = graph->places(step_)) {
        parts_.emplace_back(GraphWork{graph, std::move(*places)});
        return;
      }
    }
  }
  add(recording.commands());
}

Launches& Work::open_launches() {
  if (parts_.empty() || !std::holds_alternative<Launches>(parts_.back())) {
    parts_.emplace_back(Launches(*objects_, step_));
  }
  return std::get<Launches>(parts_.back());
}

Result Work::enqueue(Marks* marks) {
  for (const auto& part : parts_) {
    const Result result = std::visit([&](const auto& some) { return enqueue(some, marks); }, part);
    if (result != kSuccess) return result;
  }
  return kSuccess;
}

}  // namespace moeflux::cuda
