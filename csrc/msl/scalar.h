// Metal's scalar types for host compilers and CUDA. 16-bit floats round once per operation, to nearest even.
#pragma once

#if defined(MSL_TARGET_CUDA)
#define MSL_INLINE __device__ __forceinline__
#else
#include <stddef.h>
#include <stdint.h>
#define MSL_INLINE inline __attribute__((always_inline))
#endif

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
#if defined(__CUDACC_RTC__)
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long int64_t;
typedef unsigned long uint64_t;
#endif

namespace metal {

using ::uchar;
using ::uint;
using ::ulong;
using ::ushort;

template <class To, class From>
MSL_INLINE To as_type(From from) {
  static_assert(sizeof(To) == sizeof(From), "as_type between types of different sizes");
  To to;
#if defined(MSL_TARGET_CUDA)
  memcpy(&to, &from, sizeof(to));
#else
  __builtin_memcpy(static_cast<void*>(&to), &from, sizeof(to));
#endif
  return to;
}

#if defined(__aarch64__) && !defined(MSL_TARGET_CUDA)
using storage16 = __fp16;
#elif !defined(MSL_TARGET_CUDA)
using storage16 = _Float16;
#endif

// IEEE 754 binary16.
struct Binary16 {
#if defined(MSL_TARGET_CUDA)
  static MSL_INLINE ushort encode(float value) {
    ushort bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
  }
  static MSL_INLINE float decode(ushort bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
  }
#else
  static MSL_INLINE ushort encode(float value) { return as_type<ushort>(static_cast<storage16>(value)); }
  static MSL_INLINE float decode(ushort bits) { return static_cast<float>(as_type<storage16>(bits)); }
#endif
};

// The upper half of a float.
struct Bfloat16 {
  static MSL_INLINE ushort encode(float value) {
    const uint bits = as_type<uint>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return ushort(bits >> 16 | 0x40u);
    return ushort((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
  }
  static MSL_INLINE float decode(ushort bits) { return as_type<float>(uint(bits) << 16); }
};

template <class T>
struct is_integer {
  static constexpr bool value = false;
};
#define MSL_INTEGER(T)                  \
  template <>                           \
  struct is_integer<T> {                \
    static constexpr bool value = true; \
  };
MSL_INTEGER(bool)
MSL_INTEGER(char)
MSL_INTEGER(signed char)
MSL_INTEGER(uchar)
MSL_INTEGER(short)
MSL_INTEGER(ushort)
MSL_INTEGER(int)
MSL_INTEGER(uint)
MSL_INTEGER(long)
MSL_INTEGER(ulong)
#undef MSL_INTEGER

template <bool condition, class T = void>
struct enable_if {};
template <class T>
struct enable_if<true, T> {
  using type = T;
};

// As in Metal, an integer operand becomes a small float, and a small float becomes a float next to a float.
template <class Format>
struct SmallFloat {
  ushort bits;

  SmallFloat() = default;
  MSL_INLINE SmallFloat(float value) : bits(Format::encode(value)) {}
  template <class Integer, class = typename enable_if<is_integer<Integer>::value>::type>
  MSL_INLINE SmallFloat(Integer value) : bits(Format::encode(float(value))) {}
  MSL_INLINE operator float() const { return Format::decode(bits); }

#define MSL_OPERATOR(op)                                                                                            \
  friend MSL_INLINE SmallFloat operator op(SmallFloat a, SmallFloat b) { return SmallFloat(float(a) op float(b)); } \
  friend MSL_INLINE float operator op(SmallFloat a, float b) { return float(a) op b; }                              \
  friend MSL_INLINE float operator op(float a, SmallFloat b) { return a op float(b); }                              \
  template <class Integer, class = typename enable_if<is_integer<Integer>::value>::type>                            \
  friend MSL_INLINE SmallFloat operator op(SmallFloat a, Integer b) {                                               \
    return a op SmallFloat(b);                                                                                      \
  }                                                                                                                 \
  template <class Integer, class = typename enable_if<is_integer<Integer>::value>::type>                            \
  friend MSL_INLINE SmallFloat operator op(Integer a, SmallFloat b) {                                               \
    return SmallFloat(a) op b;                                                                                      \
  }                                                                                                                 \
  MSL_INLINE SmallFloat& operator op## = (SmallFloat b) { return *this = *this op b; }                              \
  MSL_INLINE SmallFloat& operator op## = (float b) { return *this = SmallFloat(*this op b); }
  MSL_OPERATOR(+)
  MSL_OPERATOR(-)
  MSL_OPERATOR(*)
  MSL_OPERATOR(/)
#undef MSL_OPERATOR
  friend MSL_INLINE SmallFloat operator-(SmallFloat a) {
    a.bits ^= 0x8000u;
    return a;
  }
  friend MSL_INLINE SmallFloat operator+(SmallFloat a) { return a; }
};

using half = SmallFloat<Binary16>;
using bfloat = SmallFloat<Bfloat16>;

template <class T>
struct is_scalar : is_integer<T> {};
template <>
struct is_scalar<float> {
  static constexpr bool value = true;
};
template <class Format>
struct is_scalar<SmallFloat<Format>> {
  static constexpr bool value = true;
};

static_assert(sizeof(half) == 2 && sizeof(bfloat) == 2 && sizeof(ulong) == 8, "Metal's sizes");

}  // namespace metal
