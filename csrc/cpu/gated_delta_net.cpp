// The gated delta net: fused projections taken apart, convolution, decay and the recurrence itself.
#include <algorithm>
#include <cmath>

#include "constants.h"
#include "cpu/functions.h"

namespace moeflux::cpu {
namespace {

void split(const Arguments& arguments, ThreadTeam& team) {
  const auto& params = arguments.params<GatedDeltaNetSplitParams>();
  const std::size_t n_key_heads = params.n_key_heads, key_dim = params.key_dim;
  const std::size_t ratio = params.n_value_heads / n_key_heads, values = ratio * params.value_dim;
  const std::size_t key_width = n_key_heads * key_dim, value_width = n_key_heads * values;
  team.parallel_for(arguments.step.n_tokens, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) {
      const float* qkvz = arguments.buffer<float>(0) + t * 2 * (key_width + value_width);
      const float* ba = arguments.buffer<float>(1) + t * 2 * params.n_value_heads;
      float* q = arguments.buffer<float>(2) + t * (2 * key_width + value_width);
      float* k = q + key_width;
      float* v = k + key_width;
      float* z = arguments.buffer<float>(3) + t * value_width;
      float* b = arguments.buffer<float>(4) + t * params.n_value_heads;
      float* a = arguments.buffer<float>(5) + t * params.n_value_heads;
      const auto take = [&qkvz](std::size_t n, float* destination) {
        std::copy_n(qkvz, n, destination);
        qkvz += n;
      };
      for (std::size_t h = 0; h < n_key_heads; ++h) {
        take(key_dim, q + h * key_dim);
        take(key_dim, k + h * key_dim);
        take(values, v + h * values);
        take(values, z + h * values);
        std::copy_n(ba, ratio, b + h * ratio);
        std::copy_n(ba + ratio, ratio, a + h * ratio);
        ba += 2 * ratio;
      }
    }
  });
}

void convolution(const Functions& functions, Dtype dtype, const Arguments& arguments, ThreadTeam& team) {
  const auto& params = arguments.params<GatedDeltaNetConvParams>();
  const WeightVector weight{arguments.buffer<std::byte>(1), dtype};
  team.parallel_for(params.channels, 256, [&](std::size_t begin, std::size_t end) {
    const ConvolutionChannels channels{begin, end - begin, params.channels, params.kernel_size,
                                       arguments.step.n_tokens};
    functions.convolve(channels, arguments.buffer<float>(0), weight, arguments.buffer<float>(2),
                       arguments.buffer<float>(3));
  });
}

// ln(1 + e^x) without overflow.
float softplus(float x) { return std::max(x, 0.0f) + std::log1p(std::exp(-std::abs(x))); }

void decay(const Functions& functions, Dtype a_log_dtype, Dtype dt_bias_dtype, const Arguments& arguments,
           ThreadTeam& team) {
  const std::size_t n_heads = arguments.params<GatedDeltaNetDecayParams>().n_value_heads;
  const float* a = arguments.buffer<float>(0);
  const float* b = arguments.buffer<float>(1);
  float* decays = arguments.buffer<float>(4);
  float* betas = arguments.buffer<float>(5);
  float* a_log = reinterpret_cast<float*>(team.scratch(2 * n_heads * sizeof(float)));
  float* dt_bias = a_log + n_heads;
  functions.widen(WeightVector{arguments.buffer<std::byte>(2), a_log_dtype}, n_heads, a_log);
  functions.widen(WeightVector{arguments.buffer<std::byte>(3), dt_bias_dtype}, n_heads, dt_bias);
  team.parallel_for(arguments.step.n_tokens, 8, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin * n_heads; i < end * n_heads; ++i) {
      const std::size_t head = i % n_heads;
      decays[i] = std::exp(-std::exp(a_log[head]) * softplus(a[i] + dt_bias[head]));
      betas[i] = 1.0f / (1.0f + std::exp(-b[i]));
    }
  });
}

void recurrence(const Functions& functions, const Arguments& arguments, ThreadTeam& team) {
  const auto& params = arguments.params<GatedDeltaNetParams>();
  const std::size_t n_tokens = arguments.step.n_tokens, key_dim = params.key_dim, value_dim = params.value_dim;
  const std::size_t key_width = params.n_key_heads * key_dim, value_width = params.n_value_heads * value_dim;
  const std::size_t qkv_width = 2 * key_width + value_width;
  const std::size_t ratio = params.n_value_heads / params.n_key_heads;
  const float* qkv = arguments.buffer<float>(0);
  float* state = arguments.buffer<float>(3);

  // q and k of every token and key head, normalised: [T, 2, n_key_heads, key_dim].
  float* qk = reinterpret_cast<float*>(team.scratch(n_tokens * 2 * key_width * sizeof(float)));
  const float q_scale = 1.0f / std::sqrt(static_cast<float>(key_dim));
  team.parallel_for(n_tokens * 2 * params.n_key_heads, 16, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      const std::size_t t = i / (2 * params.n_key_heads), head = i % (2 * params.n_key_heads);
      const float scale = head < params.n_key_heads ? q_scale : 1.0f;
      functions.l2_norm(qkv + t * qkv_width + head * key_dim, key_dim, params.epsilon, scale, qk + i * key_dim);
    }
  });

  team.parallel_for(value_width, 16, [&](std::size_t begin, std::size_t end) {
    while (begin < end) {
      const std::size_t head = begin / value_dim, n_rows = std::min(end, (head + 1) * value_dim) - begin;
      const float* q = qk + head / ratio * key_dim;
      const DeltaNetTokens tokens{
          .n_tokens = n_tokens,
          .key_dim = key_dim,
          .q = q,
          .k = q + key_width,
          .qk_stride = 2 * key_width,
          .v = qkv + 2 * key_width + begin,
          .v_stride = qkv_width,
          .decay = arguments.buffer<float>(1) + head,
          .beta = arguments.buffer<float>(2) + head,
          .head_stride = params.n_value_heads,
          .out = arguments.buffer<float>(4) + begin,
          .out_stride = value_width,
      };
      functions.delta_rule(tokens, n_rows, state + begin * key_dim);
      begin += n_rows;
    }
  });
}

}  // namespace

std::vector<Kernel> gated_delta_net_kernels() {
  return {
      {"gated_delta_net_split",
       6,
       sizeof(GatedDeltaNetSplitParams),
       {},
       [](const Constants&, InstructionSet) -> KernelFunction { return split; }},
      {"gated_delta_net_conv",
       4,
       sizeof(GatedDeltaNetConvParams),
       {"weight_dtype"},
       [](const Constants& constants, InstructionSet set) -> KernelFunction {
         const Functions& table = functions(set);
         const Dtype dtype = dtype_constant(constants, "weight_dtype");
         return [&table, dtype](const Arguments& arguments, ThreadTeam& team) {
           convolution(table, dtype, arguments, team);
         };
       }},
      {"gated_delta_net_decay",
       6,
       sizeof(GatedDeltaNetDecayParams),
       {"a_log_dtype", "dt_bias_dtype"},
       [](const Constants& constants, InstructionSet set) -> KernelFunction {
         const Functions& table = functions(set);
         const Dtype a_log = dtype_constant(constants, "a_log_dtype"),
                     dt_bias = dtype_constant(constants, "dt_bias_dtype");
         return [&table, a_log, dt_bias](const Arguments& arguments, ThreadTeam& team) {
           decay(table, a_log, dt_bias, arguments, team);
         };
       }},
      {"gated_delta_net",
       5,
       sizeof(GatedDeltaNetParams),
       {},
       [](const Constants&, InstructionSet set) -> KernelFunction {
         const Functions& table = functions(set);
         return [&table](const Arguments& arguments, ThreadTeam& team) { recurrence(table, arguments, team); };
       }},
  };
}

}  // namespace moeflux::cpu
