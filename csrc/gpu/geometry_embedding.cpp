// Launches of shaders/embedding.metal.
#include "constants.h"
#include "gpu/geometry.h"
#include "tiles.h"

namespace moeflux::gpu {
namespace {

Launch embedding(const Dispatch& dispatch) {
  format_constant(dispatch.constants, "format");
  const uint32 width = dispatch.params<EmbeddingParams>().width;
  return {"embedding", {n_tiles(width, ELEMENT_THREADS), dispatch.step.n_tokens}, {ELEMENT_THREADS}};
}

}  // namespace

std::vector<Kernel> embedding_kernels() {
  return {{"embedding", 5, sizeof(EmbeddingParams), {"format"}, {"embedding"}, embedding}};
}

}  // namespace moeflux::gpu
