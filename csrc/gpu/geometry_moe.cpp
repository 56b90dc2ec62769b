// Launches of shaders/moe.metal. How many groups a dispatch has is only known on the GPU: the launch is as large as it
// can get, and threadgroups without a group end at once.
#include <algorithm>
#include <cstdint>

#include "constants.h"
#include "gpu/geometry.h"
#include "tiles.h"

namespace moeflux::gpu {
namespace {

constexpr uint32 kVectorThreads = VECTOR_SIMDGROUPS * SIMDGROUP_LANES;
constexpr uint32 kTileThreads = TILE_SIMDGROUPS * SIMDGROUP_LANES;

// Every pair may have a group of its own, and all tokens may share one expert.
Extent expert_threadgroups(uint32 row_tiles, uint32 top_k, uint32 n_tokens, uint32 token_tile) {
  const auto n_pairs = static_cast<std::uint64_t>(n_tokens) * top_k;
  return {row_tiles, static_cast<uint32>(std::min<std::uint64_t>(n_pairs, MAX_GROUP_THREADGROUPS)),
          std::min<uint32>(n_tiles(n_tokens, token_tile), MAX_TOKEN_THREADGROUPS)};
}

Launch expert_gate_up(const Dispatch& dispatch) {
  const uint32 gate_format = format_constant(dispatch.constants, "gate_format");
  const uint32 up_format = format_constant(dispatch.constants, "up_format");
  const auto& params = dispatch.params<ExpertGateUpParams>();
  const uint32 n_tokens = dispatch.step.n_tokens;
  if (dispatch.step.prefill) {
    const uint32 row_tiles = n_tiles(params.rows, FUSED_TILE_ROWS);
    return {
        "expert_gate_up_prefill", expert_threadgroups(row_tiles, params.top_k, n_tokens, TILE_TOKENS), {kTileThreads}};
  }
  const uint32 lanes = std::max(lanes_per_row(params.cols, gate_format), lanes_per_row(params.cols, up_format));
  const uint32 row_tiles = n_tiles(params.rows, rows_per_threadgroup(FUSED_ROWS_PER_LANE, lanes));
  return {"expert_gate_up_decode", expert_threadgroups(row_tiles, params.top_k, n_tokens, 1), {kVectorThreads}};
}

Launch expert_down(const Dispatch& dispatch) {
  const uint32 format = format_constant(dispatch.constants, "format");
  const auto& params = dispatch.params<ExpertDownParams>();
  const uint32 n_tokens = dispatch.step.n_tokens;
  if (dispatch.step.prefill) {
    const uint32 row_tiles = n_tiles(params.rows, TILE_ROWS);
    return {"expert_down_prefill", expert_threadgroups(row_tiles, params.top_k, n_tokens, TILE_TOKENS), {kTileThreads}};
  }
  const uint32 rows = rows_per_threadgroup(VECTOR_ROWS_PER_LANE, lanes_per_row(params.cols, format));
  const uint32 row_tiles = n_tiles(params.rows, rows);
  return {"expert_down_decode", expert_threadgroups(row_tiles, params.top_k, n_tokens, 1), {kVectorThreads}};
}

Launch moe_combine_norm(const Dispatch& dispatch) {
  dtype_constant(dispatch.constants, "norm_dtype");
  return {"moe_combine_norm", {dispatch.step.n_tokens}, {COMBINE_THREADS}};
}

}  // namespace

std::vector<Kernel> moe_kernels() {
  return {
      {"expert_gate_up",
       5,
       sizeof(ExpertGateUpParams),
       {"gate_format", "up_format"},
       {"expert_gate_up_decode", "expert_gate_up_prefill"},
       expert_gate_up,
       true},
      {"expert_down",
       5,
       sizeof(ExpertDownParams),
       {"format"},
       {"expert_down_decode", "expert_down_prefill"},
       expert_down,
       true},
      {"moe_combine_norm",
       7,
       sizeof(MoeCombineNormParams),
       {"shared_expert", "norm_dtype"},
       {"moe_combine_norm"},
       moe_combine_norm},
  };
}

}  // namespace moeflux::gpu
