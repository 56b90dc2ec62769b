// Launches of shaders/router.metal.
#include "gpu/geometry.h"
#include "tiles.h"

namespace moeflux::gpu {
namespace {

Launch router_top_k(const Dispatch& dispatch) { return {"router_top_k", {dispatch.step.n_tokens}, {SIMDGROUP_LANES}}; }

}  // namespace

std::vector<Kernel> router_kernels() {
  return {{"router_top_k", 3, sizeof(RouterTopKParams), {"normalise"}, {"router_top_k"}, router_top_k}};
}

}  // namespace moeflux::gpu
