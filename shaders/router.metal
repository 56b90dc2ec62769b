// Chooses the experts of a token from its router logits.
#include "common.h"
#include "tiles.h"

namespace {

// An expert and its logit; better experts have the larger logit or, of equals, the lower index.
struct Candidate {
  float logit;
  uint expert;
};

inline bool is_better(Candidate a, Candidate b) {
  return a.logit > b.logit || (a.logit == b.logit && a.expert < b.expert);
}

// The best candidate of all lanes, in all of them.
inline Candidate best_of_lanes(Candidate best) {
  for (uint distance = SIMDGROUP_LANES / 2; distance > 0; distance /= 2) {
    Candidate other;
    other.logit = simd_shuffle_xor(best.logit, ushort(distance));
    other.expert = simd_shuffle_xor(best.expert, ushort(distance));
    if (is_better(other, best)) best = other;
  }
  return best;
}

// What is not a number orders as the smallest, so that every order is total and every choice an expert.
inline float ordered_logit(float logit) { return isnan(logit) ? -INFINITY : logit; }

}  // namespace

// threadgroups: [n_tokens], of one simdgroup. Each round looks for the best expert behind the one chosen before.
kernel void router_top_k(device const float* logits [[buffer(0)]], device int* experts [[buffer(1)]],
                         device float* weights [[buffer(2)]], constant RouterTopKParams& params [[buffer(3)]],
                         uint token [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]]) {
  device const float* row = logits + ulong(token) * params.n_experts;
  device int* chosen = experts + ulong(token) * params.top_k;
  device float* out = weights + ulong(token) * params.top_k;

  float largest = -INFINITY;
  for (uint i = lane; i < params.n_experts; i += SIMDGROUP_LANES) largest = max(largest, row[i]);
  largest = simd_max(largest);
  float sum = 0.0f;
  for (uint i = lane; i < params.n_experts; i += SIMDGROUP_LANES) sum += precise::exp(row[i] - largest);
  sum = lane_sum(sum, SIMDGROUP_LANES);

  Candidate last = {INFINITY, 0};
  float chosen_sum = 0.0f;
  for (uint k = 0; k < params.top_k; ++k) {
    Candidate best = {-INFINITY, params.n_experts};
    for (uint i = lane; i < params.n_experts; i += SIMDGROUP_LANES) {
      const Candidate candidate = {ordered_logit(row[i]), i};
      const bool is_left = k == 0 || is_better(last, candidate);
      if (is_left && is_better(candidate, best)) best = candidate;
    }
    last = best_of_lanes(best);
    const float weight = precise::exp(row[last.expert] - largest) / sum;
    chosen_sum += weight;
    if (lane == 0) {
      chosen[k] = int(last.expert);
      out[k] = weight;
    }
  }
  if (normalise == 0 || lane != 0) return;
  for (uint k = 0; k < params.top_k; ++k) out[k] /= chosen_sum;
}
