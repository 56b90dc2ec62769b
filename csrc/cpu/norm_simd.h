// Norms and element-wise functions, written once for all instruction sets.
#pragma once
#include "cpu/functions.h"
#include "cpu/simd_math.h"

namespace moeflux::cpu {
namespace {

inline void widen(WeightVector weight, std::size_t n, float* out) {
  for_each_vector(
      n, [&](std::size_t i, auto part) { store(out + i, load_elements(weight.dtype, weight.weight, i, n), part); });
}

// Independent sums let loads run ahead of additions.
inline float sum(const float* x, std::size_t n) {
  constexpr int n_sums = 8;
  Simd::Float sums[n_sums];
  unroll<n_sums>([&]<int i>() { sums[i] = Simd::zero(); });
  for (std::size_t c = 0; c < n; c += n_sums * Simd::lanes) {
    unroll<n_sums>([&]<int i>() { sums[i] = Simd::add(sums[i], Simd::load(x + c + i * Simd::lanes)); });
  }
  unroll<n_sums - 1>([&]<int i>() { sums[0] = Simd::add(sums[0], sums[i + 1]); });
  return Simd::sum(sums[0]);
}

// Sum of squares; the lanes are added at the end.
inline float sum_of_squares(const float* x, std::size_t n) {
  Simd::Float sum = Simd::zero();
  for_each_vector(n, [&](std::size_t i, auto part) {
    const Simd::Float v = load(x + i, part);
    sum = Simd::multiply_add(v, v, sum);
  });
  return Simd::sum(sum);
}

inline float reciprocal_root(float x) { return 1.0f / __builtin_sqrtf(x); }

inline void rms_norm(const float* x, WeightVector weight, std::size_t n, float epsilon, float* out) {
  const Simd::Float factor = Simd::broadcast(reciprocal_root(sum_of_squares(x, n) / static_cast<float>(n) + epsilon));
  for_each_vector(n, [&](std::size_t i, auto part) {
    const Simd::Float scaled = Simd::multiply(load(x + i, part), factor);
    store(out + i, Simd::multiply(scaled, load_elements(weight.dtype, weight.weight, i, n)), part);
  });
}

inline void gated_rms_norm(const float* x, const float* z, WeightVector weight, std::size_t n, float epsilon,
                           float* out) {
  const Simd::Float factor = Simd::broadcast(reciprocal_root(sum_of_squares(x, n) / static_cast<float>(n) + epsilon));
  for_each_vector(n, [&](std::size_t i, auto part) {
    const Simd::Float scaled = Simd::multiply(load(x + i, part), factor);
    const Simd::Float normed = Simd::multiply(scaled, load_elements(weight.dtype, weight.weight, i, n));
    store(out + i, Simd::multiply(normed, silu(load(z + i, part))), part);
  });
}

inline void l2_norm(const float* x, std::size_t n, float epsilon, float scale, float* out) {
  const Simd::Float factor = Simd::broadcast(reciprocal_root(sum_of_squares(x, n) + epsilon) * scale);
  for_each_vector(n,
                  [&](std::size_t i, auto part) { store(out + i, Simd::multiply(load(x + i, part), factor), part); });
}

inline void silu_multiply(const float* a, const float* b, std::size_t n, float* out) {
  for_each_vector(n, [&](std::size_t i, auto part) {
    store(out + i, Simd::multiply(silu(load(a + i, part)), load(b + i, part)), part);
  });
}

inline void multiply_sigmoid(const float* x, std::size_t n, float* out) {
  for_each_vector(n, [&](std::size_t i, auto part) {
    store(out + i, Simd::multiply(load(out + i, part), sigmoid(load(x + i, part))), part);
  });
}

inline void combine(const float* rows, const float* weights, std::size_t n_rows, const float* shared,
                    float shared_weight, std::size_t n, float* h) {
  for_each_vector(n, [&](std::size_t i, auto part) {
    Simd::Float sum = Simd::zero();
    for (std::size_t k = 0; k < n_rows; ++k) {
      sum = Simd::add(sum, Simd::multiply(Simd::broadcast(weights[k]), load(rows + k * n + i, part)));
    }
    if (shared != nullptr) {
      sum = Simd::add(sum, Simd::multiply(Simd::broadcast(shared_weight), load(shared + i, part)));
    }
    store(h + i, Simd::add(load(h + i, part), sum), part);
  });
}

}  // namespace
}  // namespace moeflux::cpu
