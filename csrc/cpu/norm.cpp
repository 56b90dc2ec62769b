// RMS norms of whole rows, and of the heads of the gated delta net with their output gate.
#include "constants.h"
#include "cpu/functions.h"

namespace moeflux::cpu {
namespace {

void rms_norm(const Functions& functions, Dtype dtype, const Arguments& arguments, ThreadTeam& team) {
  const auto& params = arguments.params<RmsNormParams>();
  const float* x = arguments.buffer<float>(0);
  const WeightVector weight{arguments.buffer<std::byte>(1), dtype};
  float* out = arguments.buffer<float>(2);
  team.parallel_for(arguments.step.n_tokens, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) {
      functions.rms_norm(x + t * params.width, weight, params.width, params.epsilon, out + t * params.width);
    }
  });
}

void gated_rms_norm(const Functions& functions, Dtype dtype, const Arguments& arguments, ThreadTeam& team) {
  const auto& params = arguments.params<GatedRmsNormParams>();
  const float* x = arguments.buffer<float>(0);
  const float* z = arguments.buffer<float>(1);
  const WeightVector weight{arguments.buffer<std::byte>(2), dtype};
  float* out = arguments.buffer<float>(3);
  const std::size_t width = params.width;
  team.parallel_for(std::size_t{arguments.step.n_tokens} * params.n_heads, 8, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      functions.gated_rms_norm(x + i * width, z + i * width, weight, width, params.epsilon, out + i * width);
    }
  });
}

}  // namespace

std::vector<Kernel> norm_kernels() {
  return {
      {"rms_norm",
       3,
       sizeof(RmsNormParams),
       {"weight_dtype"},
       [](const Constants& constants, InstructionSet set) -> KernelFunction {
         const Functions& table = functions(set);
         const Dtype dtype = dtype_constant(constants, "weight_dtype");
         return
             [&table, dtype](const Arguments& arguments, ThreadTeam& team) { rms_norm(table, dtype, arguments, team); };
       }},
      {"gated_rms_norm",
       4,
       sizeof(GatedRmsNormParams),
       {"weight_dtype"},
       [](const Constants& constants, InstructionSet set) -> KernelFunction {
         const Functions& table = functions(set);
         const Dtype dtype = dtype_constant(constants, "weight_dtype");
         return [&table, dtype](const Arguments& arguments, ThreadTeam& team) {
           gated_rms_norm(table, dtype, arguments, team);
         };
       }},
  };
}

}  // namespace moeflux::cpu
