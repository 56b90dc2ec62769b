// Launches of shaders/matmul.metal.
#include <algorithm>

#include "constants.h"
#include "gpu/geometry.h"
#include "tiles.h"

namespace moeflux::gpu {
namespace {

constexpr uint32 kVectorThreads = VECTOR_SIMDGROUPS * SIMDGROUP_LANES;
constexpr uint32 kTileThreads = TILE_SIMDGROUPS * SIMDGROUP_LANES;

Launch matmul(const Dispatch& dispatch) {
  const uint32 format = format_constant(dispatch.constants, "format");
  const auto& params = dispatch.params<MatmulParams>();
  const uint32 n_tokens = dispatch.step.n_tokens;
  if (dispatch.step.prefill) {
    return {"matmul_prefill", {n_tiles(params.rows, TILE_ROWS), n_tiles(n_tokens, TILE_TOKENS)}, {kTileThreads}};
  }
  const bool large = params.rows >= LARGE_MATRIX_ROWS;
  const uint32 rows_per_lane = large ? LARGE_ROWS_PER_LANE : VECTOR_ROWS_PER_LANE;
  const uint32 rows = rows_per_threadgroup(rows_per_lane, lanes_per_row(params.cols, format));
  return {large ? "matmul_decode_large" : "matmul_decode", {n_tiles(params.rows, rows), n_tokens}, {kVectorThreads}};
}

Launch gate_up(const Dispatch& dispatch) {
  const uint32 gate_format = format_constant(dispatch.constants, "gate_format");
  const uint32 up_format = format_constant(dispatch.constants, "up_format");
  const auto& params = dispatch.params<GateUpParams>();
  const uint32 n_tokens = dispatch.step.n_tokens;
  if (dispatch.step.prefill) {
    return {"gate_up_prefill", {n_tiles(params.rows, FUSED_TILE_ROWS), n_tiles(n_tokens, TILE_TOKENS)}, {kTileThreads}};
  }
  const uint32 lanes = std::max(lanes_per_row(params.cols, gate_format), lanes_per_row(params.cols, up_format));
  const uint32 rows = rows_per_threadgroup(FUSED_ROWS_PER_LANE, lanes);
  return {"gate_up_decode", {n_tiles(params.rows, rows), n_tokens}, {kVectorThreads}};
}

}  // namespace

std::vector<Kernel> matmul_kernels() {
  return {
      {"matmul",
       5,
       sizeof(MatmulParams),
       {"format", "accumulate"},
       {"matmul_decode", "matmul_decode_large", "matmul_prefill"},
       matmul,
       true},
      {"gate_up",
       8,
       sizeof(GateUpParams),
       {"gate_format", "up_format"},
       {"gate_up_decode", "gate_up_prefill"},
       gate_up,
       true},
  };
}

}  // namespace moeflux::gpu
