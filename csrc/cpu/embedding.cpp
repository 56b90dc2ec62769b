// Looks up the rows of an embedding table.
#include "constants.h"
#include "cpu/functions.h"

namespace moeflux::cpu {
namespace {

void embedding(const RowDots& dots, const Arguments& arguments, ThreadTeam& team) {
  const auto& params = arguments.params<EmbeddingParams>();
  const Weights table{arguments.buffer<std::byte>(0), arguments.buffer<std::byte>(1), arguments.buffer<std::byte>(2),
                      params.vocabulary, params.width};
  const std::int32_t* tokens = arguments.buffer<std::int32_t>(3);
  float* out = arguments.buffer<float>(4);
  for (std::size_t t = 0; t < arguments.step.n_tokens; ++t) {
    if (tokens[t] < 0 || static_cast<std::uint32_t>(tokens[t]) >= params.vocabulary) {
      throw DeviceError("token id " + std::to_string(tokens[t]) + " is outside of the vocabulary of " +
                        std::to_string(params.vocabulary));
    }
  }
  team.parallel_for(arguments.step.n_tokens, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) dots.decode(dots, table, tokens[t], out + t * params.width);
  });
}

}  // namespace

std::vector<Kernel> embedding_kernels() {
  return {
      {"embedding",
       5,
       sizeof(EmbeddingParams),
       {"format"},
       [](const Constants& constants, InstructionSet set) -> KernelFunction {
         const RowDots dots = row_dots(set, format_constant(constants, "format"));
         return [=](const Arguments& arguments, ThreadTeam& team) { embedding(dots, arguments, team); };
       }},
  };
}

}  // namespace moeflux::cpu
