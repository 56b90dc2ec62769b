// How the kernels of gated_delta_net.metal are launched.
#include <algorithm>

#include "error.h"
#include "gpu/geometry.h"
#include "mixer_tiles.h"

namespace moeflux::gpu {
namespace {

constexpr uint32 element_threads = 256;

uint32 rounded_up(uint32 n, uint32 divisor) { return (n + divisor - 1) / divisor; }

Launch split(const Dispatch& dispatch) {
  const auto& params = dispatch.params<GatedDeltaNetSplitParams>();
  const uint32 key_width = params.n_key_heads * params.key_dim, value_width = params.n_value_heads * params.value_dim;
  const uint32 n_values = 2 * (key_width + value_width + params.n_value_heads);
  return {"gated_delta_net_split",
          {rounded_up(n_values, element_threads), dispatch.step.n_tokens, 1},
          {element_threads, 1, 1}};
}

Launch convolution(const Dispatch& dispatch) {
  const auto& params = dispatch.params<GatedDeltaNetConvParams>();
  const uint32 n_tokens = std::max<uint32>(CONVOLUTION_TOKENS, params.kernel_size - 1);
  return {"gated_delta_net_conv",
          {rounded_up(params.channels, element_threads), rounded_up(dispatch.step.n_tokens, n_tokens), 1},
          {element_threads, 1, 1}};
}

Launch decay(const Dispatch& dispatch) {
  const uint32 n = dispatch.step.n_tokens * dispatch.params<GatedDeltaNetDecayParams>().n_value_heads;
  return {"gated_delta_net_decay", {rounded_up(n, element_threads), 1, 1}, {element_threads, 1, 1}};
}

// The kernel for rows of whole vectors, as wide as they need it; one for the others.
std::string_view step_function(const GatedDeltaNetParams& params, bool vectors) {
  if (!vectors) return "gated_delta_net_decode_any";
  if (params.key_dim <= 64) return "gated_delta_net_decode_64";
  return params.key_dim <= 128 ? "gated_delta_net_decode_128" : "gated_delta_net_decode_256";
}

Launch recurrence(const Dispatch& dispatch) {
  const auto& params = dispatch.params<GatedDeltaNetParams>();
  if (params.key_dim > DELTA_MAX_KEY_DIM) {
    throw DeviceError("gated_delta_net needs a key_dim of at most " + std::to_string(DELTA_MAX_KEY_DIM) + ", got " +
                      std::to_string(params.key_dim));
  }
  const bool vectors = params.key_dim % 4 == 0 && params.n_value_heads * params.value_dim % 4 == 0;
  if (dispatch.step.prefill != 0 && params.key_dim <= CHUNK_MAX_KEY_DIM) {
    return {vectors ? "gated_delta_net_prefill" : "gated_delta_net_prefill_any",
            {rounded_up(params.value_dim, CHUNK_ROWS), params.n_value_heads, 1},
            {CHUNK_THREADS, 1, 1}};
  }
  return {step_function(params, vectors),
          {rounded_up(params.value_dim, DELTA_ROWS), params.n_value_heads, 1},
          {DELTA_SIMDGROUPS * 32, 1, 1}};
}

}  // namespace

std::vector<Kernel> gated_delta_net_kernels() {
  return {
      {"gated_delta_net_split", 6, sizeof(GatedDeltaNetSplitParams), {}, {"gated_delta_net_split"}, split},
      {"gated_delta_net_conv",
       4,
       sizeof(GatedDeltaNetConvParams),
       {"weight_dtype"},
       {"gated_delta_net_conv"},
       convolution},
      {"gated_delta_net_decay",
       6,
       sizeof(GatedDeltaNetDecayParams),
       {"a_log_dtype", "dt_bias_dtype"},
       {"gated_delta_net_decay"},
       decay},
      {"gated_delta_net",
       5,
       sizeof(GatedDeltaNetParams),
       {},
       {"gated_delta_net_decode_64", "gated_delta_net_decode_128", "gated_delta_net_decode_256",
        "gated_delta_net_decode_any", "gated_delta_net_prefill", "gated_delta_net_prefill_any"},
       recurrence},
  };
}

}  // namespace moeflux::gpu
