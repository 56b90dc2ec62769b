// Which experts each token is routed to, and how much each counts.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "constants.h"
#include "cpu/kernel.h"

namespace moeflux::cpu {
namespace {

constexpr std::size_t kGrain = 8;  // tokens; one alone is done by the thread that asks
constexpr float kTaken = -1.0f;    // less than any probability

void softmax(const float* logits, std::size_t n, float* probabilities) {
  const float largest = *std::max_element(logits, logits + n);
  for (std::size_t i = 0; i < n; ++i) probabilities[i] = std::exp(logits[i] - largest);
  const float sum = std::accumulate(probabilities, probabilities + n, 0.0f);
  for (std::size_t i = 0; i < n; ++i) probabilities[i] /= sum;
}

struct Choice {
  std::size_t expert;
  float probability;
};

// The most probable of those not taken before, of equals the first.
Choice take_best(float* probabilities, std::size_t n) {
  float* best = std::max_element(probabilities, probabilities + n);
  return {static_cast<std::size_t>(best - probabilities), std::exchange(*best, kTaken)};
}

void router_top_k(bool normalise, const Arguments& arguments, ThreadTeam& team) {
  const auto& params = arguments.params<RouterTopKParams>();
  const std::size_t n_experts = params.n_experts, top_k = params.top_k;
  const float* logits = arguments.buffer<float>(0);
  std::int32_t* experts = arguments.buffer<std::int32_t>(1);
  float* weights = arguments.buffer<float>(2);
  float* scratch = reinterpret_cast<float*>(team.scratch(arguments.step.n_tokens * n_experts * sizeof(float)));
  team.parallel_for(arguments.step.n_tokens, kGrain, [&](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) {
      float* probabilities = scratch + t * n_experts;
      float* chosen = weights + t * top_k;
      softmax(logits + t * n_experts, n_experts, probabilities);
      for (std::size_t k = 0; k < top_k; ++k) {
        const Choice choice = take_best(probabilities, n_experts);
        experts[t * top_k + k] = static_cast<std::int32_t>(choice.expert);
        chosen[k] = choice.probability;
      }
      if (!normalise) continue;
      const float sum = std::accumulate(chosen, chosen + top_k, 0.0f);
      for (std::size_t k = 0; k < top_k; ++k) chosen[k] /= sum;
    }
  });
}

}  // namespace

std::vector<Kernel> router_kernels() {
  return {{"router_top_k",
           3,
           sizeof(RouterTopKParams),
           {"normalise"},
           [](const Constants& constants, InstructionSet) -> KernelFunction {
             const bool normalise = constant(constants, "normalise") != 0;
             return [normalise](const Arguments& arguments, ThreadTeam& team) {
               router_top_k(normalise, arguments, team);
             };
           }}};
}

}  // namespace moeflux::cpu
