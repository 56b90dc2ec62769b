// Vector functions that every instruction set shares: elements of any dtype, partial vectors, exponential, sigmoid,
// SiLU. Included after a simd_<set>.h; see simd.h for why everything here has internal linkage.
#pragma once
#include <cstring>

#include "params.h"

namespace moeflux::cpu {
namespace {

// Calls body.template operator()<0>() ... <n - 1>(), so that the index is a constant expression.
template <int n, int i = 0, typename Body>
inline __attribute__((always_inline)) void unroll(const Body& body) {
  if constexpr (i < n) {
    body.template operator()<i>();
    unroll<n, i + 1>(body);
  }
}

constexpr std::size_t round_up(std::size_t n, std::size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

inline std::size_t dtype_nbytes(Dtype dtype) { return dtype == FLOAT32 ? 4 : 2; }

template <Dtype dtype>
Simd::Float load_elements(const std::byte* p) {
  if constexpr (dtype == FLOAT32) return Simd::load(reinterpret_cast<const float*>(p));
  if constexpr (dtype == FLOAT16) return Simd::load_float16(p);
  if constexpr (dtype == BFLOAT16) return Simd::load_bfloat16(p);
}

// The first n < lanes elements, zero in the other lanes; reads no further.
template <Dtype dtype>
Simd::Float load_first_elements(const std::byte* p, std::size_t n) {
  std::byte padded[sizeof(float) * Simd::lanes] = {};
  std::memcpy(padded, p, n * (dtype == FLOAT32 ? 4 : 2));
  return load_elements<dtype>(padded);
}

// How much of a vector is meant: all of it or the first n lanes.
struct Whole {};
struct Part {
  std::size_t n;
};

template <Dtype dtype>
Simd::Float load_elements(const std::byte* p, Whole) {
  return load_elements<dtype>(p);
}
template <Dtype dtype>
Simd::Float load_elements(const std::byte* p, Part part) {
  return load_first_elements<dtype>(p, part.n);
}

// Element number i and those behind it, of n in all; lanes beyond n are zero. n_readable >= n elements may be read.
template <Dtype dtype>
inline __attribute__((always_inline)) Simd::Float load_elements(const std::byte* p, std::size_t i, std::size_t n,
                                                                std::size_t n_readable) {
  p += i * (dtype == FLOAT32 ? 4 : 2);
  if (n - i >= Simd::lanes) return load_elements<dtype>(p);
  if (n_readable - i >= Simd::lanes) return Simd::first(n - i, load_elements<dtype>(p));
  return load_first_elements<dtype>(p, n - i);
}

inline Simd::Float load_elements(Dtype dtype, const std::byte* p, std::size_t i, std::size_t n,
                                 std::size_t n_readable) {
  if (dtype == BFLOAT16) return load_elements<BFLOAT16>(p, i, n, n_readable);
  if (dtype == FLOAT16) return load_elements<FLOAT16>(p, i, n, n_readable);
  return load_elements<FLOAT32>(p, i, n, n_readable);
}

template <Dtype dtype>
Simd::Float load_elements(const std::byte* p, std::size_t i, std::size_t n) {
  return load_elements<dtype>(p, i, n, n);
}

inline Simd::Float load_elements(Dtype dtype, const std::byte* p, std::size_t i, std::size_t n) {
  return load_elements(dtype, p, i, n, n);
}

inline Simd::Float load(const float* p, Whole) { return Simd::load(p); }
inline Simd::Float load(const float* p, Part part) {
  return load_first_elements<FLOAT32>(reinterpret_cast<const std::byte*>(p), part.n);
}

inline void store(float* p, Simd::Float v, Whole) { Simd::store(p, v); }
inline void store(float* p, Simd::Float v, Part part) {
  float lanes[Simd::lanes];
  Simd::store(lanes, v);
  std::memcpy(p, lanes, part.n * sizeof(float));
}

// Calls body(i, Whole{}) for i = 0, lanes, ... and body(i, Part{rest}) for what is left of n.
template <typename Body>
inline __attribute__((always_inline)) void for_each_vector(std::size_t n, const Body& body) {
  std::size_t i = 0;
  for (; i + Simd::lanes <= n; i += Simd::lanes) body(i, Whole{});
  if (i < n) body(i, Part{n - i});
}

// out[i] = p[i], p[n + i], p[2 n + i] and so on; n is a power of two.
template <int n>
void deinterleave(const Simd::Float* vectors, Simd::Float* out, int first, int step) {
  if constexpr (n == 1) {
    out[first] = vectors[0];
  } else {
    Simd::Float even[n / 2], odd[n / 2];
    unroll<n / 2>([&]<int i>() {
      even[i] = Simd::even(vectors[2 * i], vectors[2 * i + 1]);
      odd[i] = Simd::odd(vectors[2 * i], vectors[2 * i + 1]);
    });
    deinterleave<n / 2>(even, out, first, 2 * step);
    deinterleave<n / 2>(odd, out, first + step, 2 * step);
  }
}

template <int n>
void load_deinterleaved(const float* p, Simd::Float (&out)[n]) {
  Simd::Float vectors[n];
  unroll<n>([&]<int i>() { vectors[i] = Simd::load(p + i * Simd::lanes); });
  deinterleave<n>(vectors, out, 0, 1);
}

// e^x = 2^k e^r with k = round(x / ln 2), |r| <= ln 2 / 2, and the Taylor polynomial of degree 7 (relative error 6e-9
// before rounding). Arguments are limited to where 2^k is a normal float32; not a number stays so.
inline Simd::Float exponential(Simd::Float x) {
  x = Simd::minimum(Simd::broadcast(88.0f), Simd::maximum(Simd::broadcast(-87.0f), x));
  const Simd::Integer k = Simd::nearest(Simd::multiply(x, Simd::broadcast(1.44269504f)));
  const Simd::Float k_float = Simd::to_float(k);
  // ln 2 in two parts, the first so short that its product with k is exact.
  Simd::Float r = Simd::multiply_add(k_float, Simd::broadcast(-0x1.63p-1f), x);
  r = Simd::multiply_add(k_float, Simd::broadcast(0x1.bd0106p-13f), r);
  Simd::Float polynomial = Simd::broadcast(1.0f / 5040);
  polynomial = Simd::multiply_add(polynomial, r, Simd::broadcast(1.0f / 720));
  polynomial = Simd::multiply_add(polynomial, r, Simd::broadcast(1.0f / 120));
  polynomial = Simd::multiply_add(polynomial, r, Simd::broadcast(1.0f / 24));
  polynomial = Simd::multiply_add(polynomial, r, Simd::broadcast(1.0f / 6));
  polynomial = Simd::multiply_add(polynomial, r, Simd::broadcast(0.5f));
  polynomial = Simd::multiply_add(polynomial, r, Simd::broadcast(1.0f));
  polynomial = Simd::multiply_add(polynomial, r, Simd::broadcast(1.0f));
  return Simd::multiply(polynomial, Simd::power_of_two(k));
}

inline Simd::Float sigmoid(Simd::Float x) {
  const Simd::Float one = Simd::broadcast(1.0f);
  return Simd::divide(one, Simd::add(one, exponential(Simd::subtract(Simd::zero(), x))));
}

inline Simd::Float silu(Simd::Float x) {
  return Simd::divide(x, Simd::add(Simd::broadcast(1.0f), exponential(Simd::subtract(Simd::zero(), x))));
}

}  // namespace
}  // namespace moeflux::cpu
