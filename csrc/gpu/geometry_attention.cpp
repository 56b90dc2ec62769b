// How the kernels of attention.metal are launched.
#include "error.h"
#include "gpu/geometry.h"
#include "mixer_tiles.h"

namespace moeflux::gpu {
namespace {

uint32 rounded_up(uint32 n, uint32 divisor) { return (n + divisor - 1) / divisor; }

void check_context(const Step& step, uint32 context) {
  if (uint64{step.position} + step.n_tokens <= context) return;
  throw DeviceError(std::to_string(step.n_tokens) + " tokens at position " + std::to_string(step.position) +
                    " exceed the key/value cache of " + std::to_string(context) + " positions");
}

Launch attention_prepare(const Dispatch& dispatch) {
  const auto& params = dispatch.params<AttentionPrepareParams>();
  check_context(dispatch.step, params.context);
  return {"attention_prepare",
          {rounded_up(params.n_heads + params.n_kv_heads, HEAD_SIMDGROUPS), dispatch.step.n_tokens, 1},
          {HEAD_SIMDGROUPS * 32, 1, 1}};
}

// The kernels made for one head_dim at most.
struct HeadKernels {
  std::string_view decode;
  std::string_view prefill;
};

// The narrowest for heads of whole vectors; one for the others.
HeadKernels head_kernels(uint32 head_dim) {
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
  const HeadKernels kernels = head_kernels(params.head_dim);
  if (step.prefill != 0) {
    const uint32 first = step.position / PREFILL_TILE, end = rounded_up(step.position + step.n_tokens, PREFILL_TILE);
    return {kernels.prefill, {params.n_heads, end - first, 1}, {PREFILL_THREADS, 1, 1}};
  }
  const uint32 ratio = params.n_heads / params.n_kv_heads;
  const uint32 n_groups = rounded_up(ratio, decode_heads(params.n_heads, ratio));
  return {kernels.decode, {params.n_kv_heads * n_groups, step.n_tokens, 1}, {DECODE_SIMDGROUPS * 32, 1, 1}};
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
       {"attention_decode_64", "attention_decode_128", "attention_decode_256", "attention_decode_any",
        "attention_prefill_64", "attention_prefill_128", "attention_prefill_256", "attention_prefill_any"},
       attention},
  };
}

}  // namespace moeflux::gpu
