// Metal's types and functions for a check by clang that makes no code, in its C++ for OpenCL: its address spaces and
// vectors are those that Metal's compiler is built on.
#pragma once

#pragma OPENCL EXTENSION cl_khr_fp16 : enable

#define MSL_DEVICE __global
#define MSL_CONSTANT const __constant
#define MSL_THREADGROUP __local
#define MSL_THREAD __private

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;

namespace metal {

using ::uchar;
using ::uint;
using ::ulong;
using ::ushort;
typedef __bf16 bfloat;

template <class T, int n>
using vec = T __attribute__((ext_vector_type(n)));
template <class T, int n>
struct packed_vec {
  T elements[n];
};
#define MSL_VECTORS(T)                    \
  using T##2 = vec<T, 2>;                 \
  using T##3 = vec<T, 3>;                 \
  using T##4 = vec<T, 4>;                 \
  using packed_##T##2 = packed_vec<T, 2>; \
  using packed_##T##3 = packed_vec<T, 3>; \
  using packed_##T##4 = packed_vec<T, 4>;
MSL_VECTORS(char)
MSL_VECTORS(uchar)
MSL_VECTORS(short)
MSL_VECTORS(ushort)
MSL_VECTORS(int)
MSL_VECTORS(uint)
MSL_VECTORS(long)
MSL_VECTORS(ulong)
MSL_VECTORS(half)
MSL_VECTORS(bfloat)
MSL_VECTORS(float)
#undef MSL_VECTORS
// What clang makes of comparing vectors of floats or 32-bit integers.
using bool2 = int2;
using bool3 = int3;
using bool4 = int4;

}  // namespace metal

namespace msl {

template <class T>
struct components {
  static constexpr int value = 1;
};
template <class T, int n>
struct components<T __attribute__((ext_vector_type(n)))> {
  static constexpr int value = n;
};
template <class... Arguments>
struct total {
  static constexpr int value = 0;
};
template <class First, class... Rest>
struct total<First, Rest...> {
  static constexpr int value = components<First>::value + total<Rest...>::value;
};

// What `float4(...)` means: one scalar for all components, or exactly as many components as there are.
template <class Vector, class... Arguments>
Vector make(Arguments...) {
  constexpr int wanted = components<Vector>::value, got = total<Arguments...>::value;
  static_assert(got == wanted || (got == 1 && sizeof...(Arguments) == 1), "a vector of other components");
  return Vector();
}

template <class T>
struct same {
  using type = T;
};

// Where threadgroup variables are.
template <class Variables>
__local Variables& variables() {
  return *static_cast<__local Variables*>(nullptr);
}

}  // namespace msl

namespace metal {

template <class To, class From>
To as_type(From) {
  static_assert(sizeof(To) == sizeof(From), "as_type between types of different sizes");
  return To();
}

#define MSL_WIDTHS(M, T) M(T) M(T##2) M(T##3) M(T##4)
#define MSL_FLOATS(M) MSL_WIDTHS(M, float) MSL_WIDTHS(M, half)
#define MSL_INTEGERS(M) \
  MSL_WIDTHS(M, char)   \
  MSL_WIDTHS(M, uchar) MSL_WIDTHS(M, short) MSL_WIDTHS(M, ushort) MSL_WIDTHS(M, int) MSL_WIDTHS(M, uint)
#define MSL_LONGS(M) MSL_WIDTHS(M, long) MSL_WIDTHS(M, ulong)

#define MSL_TRANSCENDENTAL(T)                                                                         \
  T acos(T), asin(T), atan(T), cos(T), cosh(T), exp(T), exp10(T), exp2(T), log(T), log10(T), log2(T); \
  T rsqrt(T), sin(T), sinh(T), sqrt(T), tan(T), tanh(T), atan2(T, T), fmod(T, T), pow(T, T), powr(T, T);
MSL_FLOATS(MSL_TRANSCENDENTAL)
namespace precise {
MSL_WIDTHS(MSL_TRANSCENDENTAL, float)
}
namespace fast {
MSL_WIDTHS(MSL_TRANSCENDENTAL, float)
}
#define MSL_OF_FLOATS(T)                                                                     \
  T ceil(T), fabs(T), floor(T), fract(T), rint(T), round(T), trunc(T), sign(T), saturate(T); \
  T copysign(T, T), fdim(T, T), fmax(T, T), fmin(T, T), step(T, T), fma(T, T, T), mix(T, T, T), abs(T);
MSL_FLOATS(MSL_OF_FLOATS)
#define MSL_ORDERED(T) T max(T, T), min(T, T), clamp(T, T, T);
MSL_FLOATS(MSL_ORDERED)
MSL_INTEGERS(MSL_ORDERED)
MSL_LONGS(MSL_ORDERED)
MSL_WIDTHS(MSL_ORDERED, bfloat)
#define MSL_GEOMETRIC(T)                                                                         \
  T dot(T##2, T##2), dot(T##3, T##3), dot(T##4, T##4), length(T##2), length(T##3), length(T##4); \
  T length_squared(T##2), length_squared(T##3), length_squared(T##4);                            \
  T##2 normalize(T##2);                                                                          \
  T##3 normalize(T##3);                                                                          \
  T##4 normalize(T##4);
MSL_GEOMETRIC(float)
MSL_GEOMETRIC(half)
int abs(int);
bool isnan(float), isinf(float), isfinite(float), signbit(float), isnan(half), isinf(half), isfinite(half);
float ldexp(float, int), divide(float, float);
#define MSL_BITS(T) T popcount(T), clz(T), ctz(T), reverse_bits(T), rotate(T, T), mulhi(T, T);
MSL_BITS(int)
MSL_BITS(uint)
uint extract_bits(uint, uint, uint), insert_bits(uint, uint, uint, uint);
bool all(bool2), all(bool3), all(bool4), any(bool2), any(bool3), any(bool4);
template <class T>
T select(T, T, bool);
template <class T, int n>
vec<T, n> select(vec<T, n>, vec<T, n>, vec<int, n>);

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };
mem_flags operator|(mem_flags, mem_flags);
void threadgroup_barrier(mem_flags), simdgroup_barrier(mem_flags);

#define MSL_EXCHANGES(T)                                                                                \
  T simd_shuffle(T, ushort), simd_shuffle_xor(T, ushort), simd_shuffle_down(T, ushort);                 \
  T simd_shuffle_up(T, ushort), simd_shuffle_rotate_down(T, ushort), simd_shuffle_rotate_up(T, ushort); \
  T simd_broadcast(T, ushort), simd_broadcast_first(T);
#define MSL_REDUCTIONS(T)                                                                 \
  T simd_sum(T), simd_product(T), simd_max(T), simd_min(T), simd_prefix_exclusive_sum(T); \
  T simd_prefix_inclusive_sum(T), simd_prefix_exclusive_product(T), simd_prefix_inclusive_product(T);
#define MSL_BIT_REDUCTIONS(T) T simd_and(T), simd_or(T), simd_xor(T);
MSL_FLOATS(MSL_EXCHANGES)
MSL_INTEGERS(MSL_EXCHANGES)
MSL_FLOATS(MSL_REDUCTIONS)
MSL_INTEGERS(MSL_REDUCTIONS)
MSL_INTEGERS(MSL_BIT_REDUCTIONS)
bool simd_any(bool), simd_all(bool), simd_is_first();

enum memory_order { memory_order_relaxed };
template <class T>
struct atomic {
  T value;
};
using atomic_int = atomic<int>;
using atomic_uint = atomic<uint>;
using atomic_float = atomic<float>;
using atomic_bool = atomic<bool>;
#define MSL_ATOMICS(SPACE)                                                                                    \
  template <class T>                                                                                          \
  T atomic_load_explicit(SPACE const atomic<T>*, memory_order);                                               \
  template <class T>                                                                                          \
  void atomic_store_explicit(SPACE atomic<T>*, typename msl::same<T>::type, memory_order);                    \
  template <class T>                                                                                          \
  T atomic_exchange_explicit(SPACE atomic<T>*, typename msl::same<T>::type, memory_order);                    \
  template <class T>                                                                                          \
  bool atomic_compare_exchange_weak_explicit(SPACE atomic<T>*, T*, typename msl::same<T>::type, memory_order, \
                                             memory_order);                                                   \
  MSL_FETCH(SPACE, add)                                                                                       \
  MSL_FETCH(SPACE, sub)                                                                                       \
  MSL_FETCH(SPACE, max)                                                                                       \
  MSL_FETCH(SPACE, min)                                                                                       \
  MSL_FETCH(SPACE, and)                                                                                       \
  MSL_FETCH(SPACE, or)                                                                                        \
  MSL_FETCH(SPACE, xor)
#define MSL_FETCH(SPACE, name) \
  template <class T>           \
  T atomic_fetch_##name##_explicit(SPACE atomic<T>*, typename msl::same<T>::type, memory_order);
MSL_ATOMICS(MSL_DEVICE)
MSL_ATOMICS(MSL_THREADGROUP)

template <class T, int rows, int cols>
struct simdgroup_matrix {
  static_assert(rows == 8 && cols == 8, "Metal's simdgroup matrices are 8x8");
  simdgroup_matrix();
  explicit simdgroup_matrix(T diagonal);
  vec<T, 2>& thread_elements();
};
using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;
using simdgroup_half8x8 = simdgroup_matrix<half, 8, 8>;
using simdgroup_bfloat8x8 = simdgroup_matrix<bfloat, 8, 8>;
template <class T, int rows, int cols>
simdgroup_matrix<T, rows, cols> make_filled_simdgroup_matrix(typename msl::same<T>::type);
#define MSL_MATRIX_MEMORY(SPACE)                                                                               \
  template <class T>                                                                                           \
  void simdgroup_load(simdgroup_matrix<T, 8, 8>&, SPACE const T*, ulong = 8, ulong2 = ulong2(), bool = false); \
  template <class T>                                                                                           \
  void simdgroup_store(simdgroup_matrix<T, 8, 8>, SPACE T*, ulong = 8, ulong2 = ulong2(), bool = false);
MSL_MATRIX_MEMORY(MSL_DEVICE)
MSL_MATRIX_MEMORY(MSL_THREADGROUP)
template <class D, class A, class B, class C>
void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>&, simdgroup_matrix<A, 8, 8>, simdgroup_matrix<B, 8, 8>,
                                   simdgroup_matrix<C, 8, 8>);
template <class D, class A, class B>
void simdgroup_multiply(simdgroup_matrix<D, 8, 8>&, simdgroup_matrix<A, 8, 8>, simdgroup_matrix<B, 8, 8>);

}  // namespace metal

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define HUGE_VALF __builtin_inff()
#define FLT_MAX __FLT_MAX__
#define FLT_MIN __FLT_MIN__
#define FLT_EPSILON __FLT_EPSILON__
#define M_PI_F 3.14159265358979323846f
#define M_LN2_F 0.69314718055994530942f
#define M_LOG2E_F 1.44269504088896340736f

#define METAL_FUNC inline
#define MSL_FUNCTION
// Clang does not make what Metal has: copies of structures out of constant memory. With them the constructor for braces
// has to be written, too.
#define MSL_STRUCT(name, ...)   \
  name(__VA_ARGS__);            \
  name(const name&);            \
  name(const __constant name&); \
  name& operator=(const name&); \
  name& operator=(const __constant name&);
#define MSL_KERNEL_FUNCTION static
#define MSL_FUNCTION_CONSTANT(T, name) extern const __constant T name
#define MSL_PROGRAM_CONSTANT static const __constant
#define MSL_DERIVED_CONSTANT static const __constant
#define MSL_THREADGROUP_BEGIN(number) struct msl_threadgroup_##number {
#define MSL_THREADGROUP_END(number, kernel) \
  }                                         \
  ;                                         \
  auto& msl_variables_##number = msl::variables<msl_threadgroup_##number>();
#define MSL_THREADGROUP_NAME(number, name) auto& name = msl_variables_##number.name;

// A vector's name in front of a parenthesis; anywhere else it stays the type.
#define bool2(...) msl::make<metal::bool2>(__VA_ARGS__)
#define bool3(...) msl::make<metal::bool3>(__VA_ARGS__)
#define bool4(...) msl::make<metal::bool4>(__VA_ARGS__)
#define char2(...) msl::make<metal::char2>(__VA_ARGS__)
#define char3(...) msl::make<metal::char3>(__VA_ARGS__)
#define char4(...) msl::make<metal::char4>(__VA_ARGS__)
#define uchar2(...) msl::make<metal::uchar2>(__VA_ARGS__)
#define uchar3(...) msl::make<metal::uchar3>(__VA_ARGS__)
#define uchar4(...) msl::make<metal::uchar4>(__VA_ARGS__)
#define short2(...) msl::make<metal::short2>(__VA_ARGS__)
#define short3(...) msl::make<metal::short3>(__VA_ARGS__)
#define short4(...) msl::make<metal::short4>(__VA_ARGS__)
#define ushort2(...) msl::make<metal::ushort2>(__VA_ARGS__)
#define ushort3(...) msl::make<metal::ushort3>(__VA_ARGS__)
#define ushort4(...) msl::make<metal::ushort4>(__VA_ARGS__)
#define int2(...) msl::make<metal::int2>(__VA_ARGS__)
#define int3(...) msl::make<metal::int3>(__VA_ARGS__)
#define int4(...) msl::make<metal::int4>(__VA_ARGS__)
#define uint2(...) msl::make<metal::uint2>(__VA_ARGS__)
#define uint3(...) msl::make<metal::uint3>(__VA_ARGS__)
#define uint4(...) msl::make<metal::uint4>(__VA_ARGS__)
#define long2(...) msl::make<metal::long2>(__VA_ARGS__)
#define long3(...) msl::make<metal::long3>(__VA_ARGS__)
#define long4(...) msl::make<metal::long4>(__VA_ARGS__)
#define ulong2(...) msl::make<metal::ulong2>(__VA_ARGS__)
#define ulong3(...) msl::make<metal::ulong3>(__VA_ARGS__)
#define ulong4(...) msl::make<metal::ulong4>(__VA_ARGS__)
#define half2(...) msl::make<metal::half2>(__VA_ARGS__)
#define half3(...) msl::make<metal::half3>(__VA_ARGS__)
#define half4(...) msl::make<metal::half4>(__VA_ARGS__)
#define bfloat2(...) msl::make<metal::bfloat2>(__VA_ARGS__)
#define bfloat3(...) msl::make<metal::bfloat3>(__VA_ARGS__)
#define bfloat4(...) msl::make<metal::bfloat4>(__VA_ARGS__)
#define float2(...) msl::make<metal::float2>(__VA_ARGS__)
#define float3(...) msl::make<metal::float3>(__VA_ARGS__)
#define float4(...) msl::make<metal::float4>(__VA_ARGS__)
