// Graphs of the fake driver. Of the kernels that may begin, the one that was added last does: nothing else orders them.
#include <algorithm>
#include <memory>
#include <vector>

#include "module.h"
#include "state.h"

#define ENTRY extern "C" __attribute__((visibility("default"))) int

struct FakeKernelNode {
  FakeFunction* function;
  unsigned grid[3], block[3], shared_nbytes;
  void** parameters;
  void** extra;
  void* kernel;
  void* context;
};

struct FakeNode {
  std::size_t index;
  std::vector<std::size_t> after;
  FakeLaunch launch;
};

struct FakeGraph {
  std::vector<std::unique_ptr<FakeNode>> nodes;
};

struct FakeExecutable {
  std::vector<FakeNode> nodes;
};

namespace {

FakeLaunch launch_of(const FakeKernelNode& node) {
  return {node.function,
          {node.grid[0], node.grid[1], node.grid[2]},
          {node.block[0], node.block[1], node.block[2]},
          node.function->copy_of(node.parameters)};
}

void run(std::vector<FakeNode> nodes) {
  std::vector<bool> done(nodes.size());
  for (std::size_t n_done = 0; n_done < nodes.size(); ++n_done) {
    const auto next = std::find_if(nodes.rbegin(), nodes.rend(), [&](const FakeNode& node) {
      return !done[node.index] && std::all_of(node.after.begin(), node.after.end(), [&](auto i) { return done[i]; });
    });
    next->launch.run();
    done[next->index] = true;
  }
}

}  // namespace

ENTRY cuGraphCreate(FakeGraph** graph, unsigned) {
  if (const int result = entered_context("cuGraphCreate"); result != SUCCESS) return result;
  *graph = new FakeGraph;
  count_live("graph", 1);
  return SUCCESS;
}
ENTRY cuGraphDestroy(FakeGraph* graph) {
  delete graph;
  count_live("graph", -1);
  return entered("cuGraphDestroy");
}
ENTRY cuGraphAddKernelNode_v2(FakeNode** node, FakeGraph* graph, FakeNode* const* after, std::size_t n_after,
                              const FakeKernelNode* kernel) {
  if (const int result = entered_context("cuGraphAddKernelNode_v2"); result != SUCCESS) return result;
  graph->nodes.push_back(std::make_unique<FakeNode>(FakeNode{graph->nodes.size(), {}, launch_of(*kernel)}));
  *node = graph->nodes.back().get();
  for (std::size_t i = 0; i < n_after; ++i) (*node)->after.push_back(after[i]->index);
  return SUCCESS;
}
ENTRY cuGraphInstantiateWithFlags(FakeExecutable** executable, FakeGraph* graph, unsigned long long) {
  if (const int result = entered_context("cuGraphInstantiateWithFlags"); result != SUCCESS) return result;
  *executable = new FakeExecutable;
  for (const std::unique_ptr<FakeNode>& node : graph->nodes) (*executable)->nodes.push_back(*node);
  count_live("graph", 1);
  return SUCCESS;
}
ENTRY cuGraphExecKernelNodeSetParams_v2(FakeExecutable* executable, FakeNode* node, const FakeKernelNode* kernel) {
  if (const int result = entered_context("cuGraphExecKernelNodeSetParams_v2"); result != SUCCESS) return result;
  executable->nodes[node->index].launch = launch_of(*kernel);
  return SUCCESS;
}
ENTRY cuGraphLaunch(FakeExecutable* executable, FakeStream* stream) {
  if (const int result = entered_context("cuGraphLaunch"); result != SUCCESS) return result;
  if (const int result = state().next_kernel.exchange(SUCCESS); result != SUCCESS) {
    stream->add([result] { state().sticky = result; });
    return SUCCESS;
  }
  if (!stream->hangs()) stream->add([nodes = executable->nodes] { run(nodes); });
  return SUCCESS;
}
ENTRY cuGraphExecDestroy(FakeExecutable* executable) {
  delete executable;
  count_live("graph", -1);
  return entered("cuGraphExecDestroy");
}
