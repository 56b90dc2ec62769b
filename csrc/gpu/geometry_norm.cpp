// How the kernels of norm.metal are launched.
#include "gpu/geometry.h"
#include "mixer_tiles.h"

namespace moeflux::gpu {
namespace {

Launch rms_norm(const Dispatch& dispatch) {
  return {"rms_norm", {dispatch.step.n_tokens, 1, 1}, {ROW_NORM_THREADS, 1, 1}};
}

Launch gated_rms_norm(const Dispatch& dispatch) {
  const std::uint32_t n_heads = dispatch.params<GatedRmsNormParams>().n_heads;
  return {"gated_rms_norm",
          {(n_heads + HEAD_SIMDGROUPS - 1) / HEAD_SIMDGROUPS, dispatch.step.n_tokens, 1},
          {HEAD_SIMDGROUPS * 32, 1, 1}};
}

}  // namespace

std::vector<Kernel> norm_kernels() {
  return {
      {"rms_norm", 3, sizeof(RmsNormParams), {"weight_dtype"}, {"rms_norm"}, rms_norm},
      {"gated_rms_norm", 4, sizeof(GatedRmsNormParams), {"weight_dtype"}, {"gated_rms_norm"}, gated_rms_norm},
  };
}

}  // namespace moeflux::gpu
