// Metal's math, integer and geometric functions for host compilers and CUDA.
#pragma once

#include "vector.h"

#if defined(MSL_TARGET_CUDA)
#define MSL_MATH(name) ::name
#else
#define MSL_MATH(name) __builtin_##name
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define HUGE_VALF __builtin_inff()
#define FLT_MAX __FLT_MAX__
#define FLT_MIN __FLT_MIN__
#define FLT_EPSILON __FLT_EPSILON__
#endif
#define M_PI_F 3.14159265358979323846f
#define M_LN2_F 0.69314718055994530942f
#define M_LOG2E_F 1.44269504088896340736f

namespace metal {

// Small floats and vectors, out of the function of floats: computed in float, rounded once.
#define MSL_ELEMENTWISE(name)                                          \
  template <class Format>                                              \
  MSL_INLINE SmallFloat<Format> name(SmallFloat<Format> x) {           \
    return SmallFloat<Format>(name(float(x)));                         \
  }                                                                    \
  template <class T, int n>                                            \
  MSL_INLINE vec<T, n> name(const vec<T, n>& x) {                      \
    vec<T, n> result;                                                  \
    for (int i = 0; i < n; ++i) result[i] = name(x[i]);                \
    return result;                                                     \
  }                                                                    \
  template <class Vector, int size, int... indices>                    \
  MSL_INLINE Vector name(const swizzle<Vector, size, indices...>& x) { \
    return name(Vector(x));                                            \
  }
#define MSL_FUNCTION_OF_ONE(name, expression)           \
  MSL_INLINE float name(float x) { return expression; } \
  MSL_ELEMENTWISE(name)

#define MSL_TRANSCENDENTAL                                                    \
  MSL_FUNCTION_OF_ONE(acos, MSL_MATH(acosf)(x))                               \
  MSL_FUNCTION_OF_ONE(asin, MSL_MATH(asinf)(x))                               \
  MSL_FUNCTION_OF_ONE(atan, MSL_MATH(atanf)(x))                               \
  MSL_FUNCTION_OF_ONE(cos, MSL_MATH(cosf)(x))                                 \
  MSL_FUNCTION_OF_ONE(cosh, MSL_MATH(coshf)(x))                               \
  MSL_FUNCTION_OF_ONE(exp, MSL_MATH(expf)(x))                                 \
  MSL_FUNCTION_OF_ONE(exp10, MSL_MATH(powf)(10.0f, x))                        \
  MSL_FUNCTION_OF_ONE(exp2, MSL_MATH(exp2f)(x))                               \
  MSL_FUNCTION_OF_ONE(log, MSL_MATH(logf)(x))                                 \
  MSL_FUNCTION_OF_ONE(log10, MSL_MATH(log10f)(x))                             \
  MSL_FUNCTION_OF_ONE(log2, MSL_MATH(log2f)(x))                               \
  MSL_FUNCTION_OF_ONE(rsqrt, 1.0f / MSL_MATH(sqrtf)(x))                       \
  MSL_FUNCTION_OF_ONE(sin, MSL_MATH(sinf)(x))                                 \
  MSL_FUNCTION_OF_ONE(sinh, MSL_MATH(sinhf)(x))                               \
  MSL_FUNCTION_OF_ONE(sqrt, MSL_MATH(sqrtf)(x))                               \
  MSL_FUNCTION_OF_ONE(tan, MSL_MATH(tanf)(x))                                 \
  MSL_FUNCTION_OF_ONE(tanh, MSL_MATH(tanhf)(x))                               \
  MSL_INLINE float atan2(float y, float x) { return MSL_MATH(atan2f)(y, x); } \
  MSL_INLINE float fmod(float x, float y) { return MSL_MATH(fmodf)(x, y); }   \
  MSL_INLINE float pow(float x, float y) { return MSL_MATH(powf)(x, y); }     \
  MSL_INLINE float powr(float x, float y) { return MSL_MATH(powf)(x, y); }    \
  MSL_INLINE float divide(float x, float y) { return x / y; }

MSL_TRANSCENDENTAL
// A host has one accuracy for all three.
namespace precise {
MSL_TRANSCENDENTAL
}
namespace fast {
MSL_TRANSCENDENTAL
}
#undef MSL_TRANSCENDENTAL

MSL_FUNCTION_OF_ONE(ceil, MSL_MATH(ceilf)(x))
MSL_FUNCTION_OF_ONE(fabs, MSL_MATH(fabsf)(x))
MSL_FUNCTION_OF_ONE(floor, MSL_MATH(floorf)(x))
MSL_FUNCTION_OF_ONE(fract, MSL_MATH(fminf)(x - MSL_MATH(floorf)(x), 0x1.fffffep-1f))
MSL_FUNCTION_OF_ONE(rint, MSL_MATH(rintf)(x))
MSL_FUNCTION_OF_ONE(round, MSL_MATH(roundf)(x))
MSL_FUNCTION_OF_ONE(trunc, MSL_MATH(truncf)(x))
MSL_FUNCTION_OF_ONE(sign, x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x == 0.0f ? x : 0.0f)
MSL_FUNCTION_OF_ONE(saturate, x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f)

MSL_INLINE bool isnan(float x) { return (as_type<uint>(x) & 0x7fffffffu) > 0x7f800000u; }
MSL_INLINE bool isinf(float x) { return (as_type<uint>(x) & 0x7fffffffu) == 0x7f800000u; }
MSL_INLINE bool isfinite(float x) { return (as_type<uint>(x) & 0x7fffffffu) < 0x7f800000u; }
MSL_INLINE bool signbit(float x) { return as_type<uint>(x) >> 31 != 0; }
MSL_INLINE float copysign(float x, float y) { return MSL_MATH(copysignf)(x, y); }
MSL_INLINE float fdim(float x, float y) { return MSL_MATH(fdimf)(x, y); }
MSL_INLINE float fmax(float x, float y) { return MSL_MATH(fmaxf)(x, y); }
MSL_INLINE float fmin(float x, float y) { return MSL_MATH(fminf)(x, y); }
MSL_INLINE float ldexp(float x, int exponent) { return MSL_MATH(ldexpf)(x, exponent); }
MSL_INLINE float step(float edge, float x) { return x < edge ? 0.0f : 1.0f; }

MSL_INLINE float fma(float a, float b, float c) { return MSL_MATH(fmaf)(a, b, c); }
MSL_INLINE half fma(half a, half b, half c) { return half(fma(float(a), float(b), float(c))); }
template <int n>
MSL_INLINE vec<float, n> fma(const vec<float, n>& a, const vec<float, n>& b, const vec<float, n>& c) {
  vec<float, n> result;
  for (int i = 0; i < n; ++i) result[i] = fma(a[i], b[i], c[i]);
  return result;
}

MSL_INLINE float mix(float a, float b, float t) { return a + (b - a) * t; }
template <int n>
MSL_INLINE vec<float, n> mix(const vec<float, n>& a, const vec<float, n>& b, const vec<float, n>& t) {
  return a + (b - a) * t;
}

// One overload per type, so that arguments of two types are ambiguous, as they are for Metal.
#define MSL_ORDERED(T)                                 \
  MSL_INLINE T max(T a, T b) { return a < b ? b : a; } \
  MSL_INLINE T min(T a, T b) { return b < a ? b : a; } \
  MSL_INLINE T clamp(T x, T low, T high) { return min(max(x, low), high); }
MSL_ORDERED(char)
MSL_ORDERED(uchar)
MSL_ORDERED(short)
MSL_ORDERED(ushort)
MSL_ORDERED(int)
MSL_ORDERED(uint)
MSL_ORDERED(long)
MSL_ORDERED(ulong)
MSL_ORDERED(half)
MSL_ORDERED(bfloat)
#undef MSL_ORDERED
// Of a number and NaN, the number.
MSL_INLINE float max(float a, float b) { return MSL_MATH(fmaxf)(a, b); }
MSL_INLINE float min(float a, float b) { return MSL_MATH(fminf)(a, b); }
MSL_INLINE float clamp(float x, float low, float high) { return min(max(x, low), high); }
#define MSL_ELEMENTWISE_OF_TWO(name)                                  \
  template <class T, int n>                                           \
  MSL_INLINE vec<T, n> name(const vec<T, n>& a, const vec<T, n>& b) { \
    vec<T, n> result;                                                 \
    for (int i = 0; i < n; ++i) result[i] = name(a[i], b[i]);         \
    return result;                                                    \
  }
MSL_ELEMENTWISE_OF_TWO(max)
MSL_ELEMENTWISE_OF_TWO(min)
MSL_ELEMENTWISE_OF_TWO(pow)
MSL_ELEMENTWISE_OF_TWO(fmax)
MSL_ELEMENTWISE_OF_TWO(fmin)
#undef MSL_ELEMENTWISE_OF_TWO
template <class T, int n>
MSL_INLINE vec<T, n> clamp(const vec<T, n>& x, const vec<T, n>& low, const vec<T, n>& high) {
  return min(max(x, low), high);
}

MSL_INLINE float abs(float x) { return MSL_MATH(fabsf)(x); }
MSL_INLINE int abs(int x) { return x < 0 ? -x : x; }
MSL_ELEMENTWISE(abs)

template <class T>
MSL_INLINE T select(T if_false, T if_true, bool condition) {
  return condition ? if_true : if_false;
}
template <class T, int n>
MSL_INLINE vec<T, n> select(const vec<T, n>& if_false, const vec<T, n>& if_true, const vec<bool, n>& condition) {
  vec<T, n> result;
  for (int i = 0; i < n; ++i) result[i] = condition[i] ? if_true[i] : if_false[i];
  return result;
}
MSL_INLINE bool all(bool x) { return x; }
MSL_INLINE bool any(bool x) { return x; }
template <int n>
MSL_INLINE bool all(const vec<bool, n>& x) {
  bool result = true;
  for (int i = 0; i < n; ++i) result = result && x[i];
  return result;
}
template <int n>
MSL_INLINE bool any(const vec<bool, n>& x) {
  bool result = false;
  for (int i = 0; i < n; ++i) result = result || x[i];
  return result;
}

// The overloads that are no templates take swizzles as well.
#define MSL_GEOMETRIC(T, n)                                             \
  MSL_INLINE T dot(const vec<T, n>& a, const vec<T, n>& b) {            \
    T sum = a[0] * b[0];                                                \
    for (int i = 1; i < n; ++i) sum = sum + a[i] * b[i];                \
    return sum;                                                         \
  }                                                                     \
  MSL_INLINE T length_squared(const vec<T, n>& a) { return dot(a, a); } \
  MSL_INLINE T length(const vec<T, n>& a) { return sqrt(dot(a, a)); }   \
  MSL_INLINE vec<T, n> normalize(const vec<T, n>& a) { return a * vec<T, n>(rsqrt(dot(a, a))); }
MSL_GEOMETRIC(float, 2)
MSL_GEOMETRIC(float, 3)
MSL_GEOMETRIC(float, 4)
MSL_GEOMETRIC(half, 2)
MSL_GEOMETRIC(half, 3)
MSL_GEOMETRIC(half, 4)
#undef MSL_GEOMETRIC

#if defined(MSL_TARGET_CUDA)
MSL_INLINE uint popcount(uint x) { return uint(__popc(int(x))); }
MSL_INLINE uint clz(uint x) { return uint(__clz(int(x))); }
MSL_INLINE uint ctz(uint x) { return x == 0 ? 32 : uint(__ffs(int(x)) - 1); }
MSL_INLINE uint mulhi(uint a, uint b) { return __umulhi(a, b); }
MSL_INLINE uint reverse_bits(uint x) { return __brev(x); }
#else
MSL_INLINE uint popcount(uint x) { return uint(__builtin_popcount(x)); }
MSL_INLINE uint clz(uint x) { return x == 0 ? 32 : uint(__builtin_clz(x)); }
MSL_INLINE uint ctz(uint x) { return x == 0 ? 32 : uint(__builtin_ctz(x)); }
MSL_INLINE uint mulhi(uint a, uint b) { return uint(ulong(a) * b >> 32); }
MSL_INLINE uint reverse_bits(uint x) {
  uint result = 0;
  for (int i = 0; i < 32; ++i) result |= (x >> i & 1u) << (31 - i);
  return result;
}
#endif
MSL_INLINE uint rotate(uint x, uint by) { return x << (by & 31) | x >> (-by & 31); }
MSL_INLINE uint extract_bits(uint x, uint offset, uint bits) {
  return bits == 0 ? 0 : x >> offset & ~0u >> (32 - bits);
}
MSL_INLINE uint insert_bits(uint base, uint insert, uint offset, uint bits) {
  const uint mask = bits == 0 ? 0 : ~0u >> (32 - bits) << offset;
  return (base & ~mask) | (insert << offset & mask);
}

#undef MSL_ELEMENTWISE
#undef MSL_FUNCTION_OF_ONE
#undef MSL_MATH

}  // namespace metal
