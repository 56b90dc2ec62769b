// Norm and rotary embedding of queries and keys.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "constants.h"
#include "cpu/functions.h"
#include "positions.h"

namespace moeflux::cpu {
namespace {

// Cosines and sines of one position.
struct Rotation {
  Rotation(const std::byte* frequencies, std::size_t n, std::uint32_t position) : cosines(n), sines(n) {
    for (std::size_t i = 0; i < n; ++i) {
      float frequency;
      std::memcpy(&frequency, frequencies + i * sizeof frequency, sizeof frequency);
      const float angle = static_cast<float>(position) * frequency;
      cosines[i] = std::cos(angle);
      sines[i] = std::sin(angle);
    }
  }

  // Rotates the pairs (i, i + n) of a head.
  void apply(float* head) const {
    const std::size_t n = cosines.size();
    for (std::size_t i = 0; i < n; ++i) {
      const float a = head[i], b = head[i + n];
      head[i] = a * cosines[i] - b * sines[i];
      head[i + n] = b * cosines[i] + a * sines[i];
    }
  }

  std::vector<float> cosines;
  std::vector<float> sines;
};

void attention_prepare(const Functions& functions, Dtype norm_dtype, const Arguments& arguments, ThreadTeam& team) {
  const auto& params = arguments.params<AttentionPrepareParams>();
  const Step step = arguments.step;
  check_context(step, params.context);
  const float* q_proj = arguments.buffer<float>(0);
  const float* k_proj = arguments.buffer<float>(1);
  const float* v_proj = arguments.buffer<float>(2);
  const WeightVector q_norm{arguments.buffer<std::byte>(3), norm_dtype};
  const WeightVector k_norm{arguments.buffer<std::byte>(4), norm_dtype};
  const std::size_t n = params.head_dim, kv_width = std::size_t{params.n_kv_heads} * n;

  team.parallel_for(step.n_tokens, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) {
      const std::size_t position = step.position + t;
      const Rotation rotation(arguments.buffer<std::byte>(5), params.rope_dim / 2, step.position + t);
      float* q = arguments.buffer<float>(6) + t * params.n_heads * n;
      const float* q_heads = q_proj + t * params.n_heads * params.q_head_stride;
      for (std::size_t h = 0; h < params.n_heads; ++h) {
        functions.rms_norm(q_heads + h * params.q_head_stride, q_norm, n, params.epsilon, q + h * n);
        rotation.apply(q + h * n);
      }
      float* k = arguments.buffer<float>(7) + position * kv_width;
      for (std::size_t h = 0; h < params.n_kv_heads; ++h) {
        functions.rms_norm(k_proj + t * kv_width + h * n, k_norm, n, params.epsilon, k + h * n);
        rotation.apply(k + h * n);
      }
      std::copy_n(v_proj + t * kv_width, kv_width, arguments.buffer<float>(8) + position * kv_width);
    }
  });
}

}  // namespace

std::vector<Kernel> attention_prepare_kernels() {
  return {
      {"attention_prepare",
       9,
       sizeof(AttentionPrepareParams),
       {"norm_dtype"},
       [](const Constants& constants, InstructionSet set) -> KernelFunction {
         const Functions& table = functions(set);
         const Dtype dtype = dtype_constant(constants, "norm_dtype");
         return [&table, dtype](const Arguments& arguments, ThreadTeam& team) {
           attention_prepare(table, dtype, arguments, team);
         };
       }},
  };
}

}  // namespace moeflux::cpu
