// How the kernels of attention.metal are launched.
#include <algorithm>

#include "error.h"
#include "gpu/geometry.h"
#include "mixer_tiles.h"
#include "positions.h"

namespace moeflux::gpu {
namespace {

uint32 rounded_up(uint32 n, uint32 divisor) { return (n + divisor - 1) / divisor; }

Launch attention_prepare(const Dispatch& dispatch) {
  const auto& params = dispatch.params<AttentionPrepareParams>();
  check_context(dispatch.step, params.context);
  return {"attention_prepare",
          {rounded_up(params.n_heads + params.n_kv_heads, HEAD_SIMDGROUPS), dispatch.step.n_tokens, 1},
          {HEAD_SIMDGROUPS * 32, 1, 1}};
}

// The functions made for one head_dim at most.
struct HeadFunctions {
  std::string_view decode;
  std::string_view prefill;
};

// The narrowest for heads of whole vectors; one for the others.
HeadFunctions head_functions(uint32 head_dim) {
  if (head_dim > ATTENTION_MAX_HEAD_DIM) {
    throw DeviceError("attention needs a head_dim of at most " + std::to_string(ATTENTION_MAX_HEAD_DIM) + ", got " +
                      std::to_string(head_dim));
  }
  if (head_dim % 4 != 0) return {"attention_decode_any", "attention_prefill_any"};
  if (head_dim <= 64) return {"attention_decode_64", "attention_prefill_64"};
  if (head_dim <= 128) return {"attention_decode_128", "attention_prefill_128"};
  return {"attention_decode_256", "attention_prefill_256"};
}

Launch attention(const Dispatch& dispatch) {
  const auto& params = dispatch.params<AttentionParams>();
  const Step& step = dispatch.step;
  check_context(step, params.context);
  const uint32 first = step.position / PREFILL_TILE, end = rounded_up(step.position + step.n_tokens, PREFILL_TILE);
  return {head_functions(params.head_dim).prefill, {params.n_heads, end - first, 1}, {PREFILL_THREADS, 1, 1}};
}

Launch attention_decode(const Dispatch& dispatch) {
  const auto& params = dispatch.params<AttentionDecodeParams>();
  const Step& step = dispatch.step;
  check_context(step, params.context);
  const uint32 n_groups = params.n_kv_heads * decode_head_groups(params.n_heads / params.n_kv_heads);
  // Those of an earlier token may be more than the last one's; what is too many has no keys.
  const uint32 n_splits = std::min(params.n_splits, rounded_up(step.position + step.n_tokens, SPLIT_KEYS));
  return {head_functions(params.head_dim).decode, {n_groups, step.n_tokens, n_splits}, {DECODE_SIMDGROUPS * 32, 1, 1}};
}

Launch attention_merge(const Dispatch& dispatch) {
  const auto& params = dispatch.params<AttentionMergeParams>();
  return {"attention_merge", {params.n_heads, dispatch.step.n_tokens, 1}, {MERGE_THREADS, 1, 1}};
}

}  // namespace

std::vector<Kernel> attention_kernels() {
  return {
      {"attention_prepare",
       9,
       sizeof(AttentionPrepareParams),
       {"norm_dtype"},
       {"attention_prepare"},
       attention_prepare},
      {"attention",
       5,
       sizeof(AttentionParams),
       {"output_gate"},
       {"attention_prefill_64", "attention_prefill_128", "attention_prefill_256", "attention_prefill_any"},
       attention},
      {"attention_decode",
       4,
       sizeof(AttentionDecodeParams),
       {},
       {"attention_decode_64", "attention_decode_128", "attention_decode_256", "attention_decode_any"},
       attention_decode},
      {"attention_merge", 3, sizeof(AttentionMergeParams), {"output_gate"}, {"attention_merge"}, attention_merge},
  };
}

}  // namespace moeflux::gpu
