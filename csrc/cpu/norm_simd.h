// Norms and element-wise functions, written once for all instruction sets.
#pragma once
#include "cpu/functions.h"
#include "cpu/simd_math.h"

namespace moeflux::cpu {
namespace {

inline void widen(WeightVector weight, std::size_t n, float* out) {
  for (std::size_t i = 0; i < n; i += Simd::lanes) store(out, i, n, load_elements(weight.dtype, weight.weight, i, n));
}

// Sum of squares; the lanes are added at the end.
inline float sum_of_squares(const float* x, std::size_t n) {
  Simd::Float sum = Simd::zero();
  for (std::size_t i = 0; i < n; i += Simd::lanes) {
    const Simd::Float v = load(x, i, n);
    sum = Simd::multiply_add(v, v, sum);
  }
  return Simd::sum(sum);
}

inline float reciprocal_root(float x) { return 1.0f / __builtin_sqrtf(x); }

inline void rms_norm(const float* x, WeightVector weight, std::size_t n, float epsilon, float* out) {
  const Simd::Float factor = Simd::broadcast(reciprocal_root(sum_of_squares(x, n) / static_cast<float>(n) + epsilon));
  for (std::size_t i = 0; i < n; i += Simd::lanes) {
    const Simd::Float scaled = Simd::multiply(load(x, i, n), factor);
    store(out, i, n, Simd::multiply(scaled, load_elements(weight.dtype, weight.weight, i, n)));
  }
}

inline void gated_rms_norm(const float* x, const float* z, WeightVector weight, std::size_t n, float epsilon,
                           float* out) {
  const Simd::Float factor = Simd::broadcast(reciprocal_root(sum_of_squares(x, n) / static_cast<float>(n) + epsilon));
  for (std::size_t i = 0; i < n; i += Simd::lanes) {
    const Simd::Float scaled = Simd::multiply(load(x, i, n), factor);
    const Simd::Float normed = Simd::multiply(scaled, load_elements(weight.dtype, weight.weight, i, n));
    store(out, i, n, Simd::multiply(normed, silu(load(z, i, n))));
  }
}

inline void l2_norm(const float* x, std::size_t n, float epsilon, float scale, float* out) {
  const Simd::Float factor = Simd::broadcast(reciprocal_root(sum_of_squares(x, n) + epsilon) * scale);
  for (std::size_t i = 0; i < n; i += Simd::lanes) store(out, i, n, Simd::multiply(load(x, i, n), factor));
}

inline void silu_multiply(const float* a, const float* b, std::size_t n, float* out) {
  for (std::size_t i = 0; i < n; i += Simd::lanes) store(out, i, n, Simd::multiply(silu(load(a, i, n)), load(b, i, n)));
}

inline void multiply_sigmoid(const float* x, std::size_t n, float* out) {
  for (std::size_t i = 0; i < n; i += Simd::lanes) {
    store(out, i, n, Simd::multiply(load(out, i, n), sigmoid(load(x, i, n))));
  }
}

inline void combine(const float* rows, const float* weights, std::size_t n_rows, const float* shared,
                    float shared_weight, std::size_t n, float* h) {
  for (std::size_t i = 0; i < n; i += Simd::lanes) {
    Simd::Float sum = Simd::zero();
    for (std::size_t k = 0; k < n_rows; ++k) {
      sum = Simd::add(sum, Simd::multiply(Simd::broadcast(weights[k]), load(rows + k * n, i, n)));
    }
    if (shared != nullptr) sum = Simd::add(sum, Simd::multiply(Simd::broadcast(shared_weight), load(shared, i, n)));
    store(h, i, n, Simd::add(load(h, i, n), sum));
  }
}

}  // namespace
}  // namespace moeflux::cpu
