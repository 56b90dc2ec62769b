// Metal's vectors for host compilers and CUDA: sizes, constructors, swizzles and element-wise operators of Metal.
#pragma once

#include "swizzle.h"

namespace metal {

// How many components a constructor's argument brings.
template <class T>
struct components {
  static constexpr int value = 1;
};
template <class T, int n>
struct components<vec<T, n>> {
  static constexpr int value = n;
};
template <class Vector, int size, int... indices>
struct components<swizzle<Vector, size, indices...>> {
  static constexpr int value = sizeof...(indices);
};
template <class... Arguments>
struct total_components {
  static constexpr int value = 0;
};
template <class First, class... Rest>
struct total_components<First, Rest...> {
  static constexpr int value = components<First>::value + total_components<Rest...>::value;
};

// The elements, by number, by name and as one piece of memory. Three take the room of four.
template <class T, int n>
struct vec_elements;
#define MSL_ELEMENTS(n, room, ...)               \
  template <class T>                             \
  struct vec_elements<T, n> {                    \
    struct alignas(room * sizeof(T)) piece {     \
      T elements[n];                             \
    };                                           \
    union {                                      \
      T elements[n];                             \
      piece whole;                               \
      struct {                                   \
        T __VA_ARGS__;                           \
      };                                         \
      MSL_SWIZZLES(n)                            \
    };                                           \
    vec_elements() = default;                    \
    vec_elements(const vec_elements&) = default; \
  };
MSL_ELEMENTS(2, 2, x, y)
MSL_ELEMENTS(3, 4, x, y, z)
MSL_ELEMENTS(4, 4, x, y, z, w)
#undef MSL_ELEMENTS

template <class T, int n>
struct vec : vec_elements<T, n> {
  using vec_elements<T, n>::elements;

  vec() = default;
  vec(const vec&) = default;
  MSL_INLINE vec(T value) {
    for (int i = 0; i < n; ++i) elements[i] = value;
  }
  // Elements that are classes need their own conversion here, for the language adds no second one.
  template <class U, class = typename enable_if<is_scalar<U>::value>::type>
  MSL_INLINE vec(U value) : vec(T(value)) {}
  template <class First, class Second, class... Rest,
            class = typename enable_if<total_components<First, Second, Rest...>::value == n>::type>
  MSL_INLINE vec(const First& first, const Second& second, const Rest&... rest) {
    fill(0, first, second, rest...);
  }
  template <class U>
  MSL_INLINE explicit vec(const vec<U, n>& other) {
    for (int i = 0; i < n; ++i) elements[i] = T(other[i]);
  }
  template <class U, int size, int... indices>
  MSL_INLINE explicit vec(const swizzle<vec<U, n>, size, indices...>& other) {
    int i = 0;
    const int order[] = {indices...};
    for (int index : order) elements[i++] = T(other.elements[index]);
  }

  // Swizzles have assignments of their own, among which a union does not choose.
  MSL_INLINE vec& operator=(const vec& other) {
    this->whole = other.whole;
    return *this;
  }

  template <class Index>
  MSL_INLINE T& operator[](Index i) {
    return elements[i];
  }
  template <class Index>
  MSL_INLINE const T& operator[](Index i) const {
    return elements[i];
  }

#define MSL_OPERATOR(op)                                          \
  friend MSL_INLINE vec operator op(const vec& a, const vec& b) { \
    vec result;                                                   \
    for (int i = 0; i < n; ++i) result[i] = T(a[i] op b[i]);      \
    return result;                                                \
  }                                                               \
  MSL_INLINE vec& operator op## = (const vec& other) { return *this = *this op other; }
  MSL_OPERATOR(+)
  MSL_OPERATOR(-)
  MSL_OPERATOR(*)
  MSL_OPERATOR(/)
  MSL_OPERATOR(%)
  MSL_OPERATOR(&)
  MSL_OPERATOR(|)
  MSL_OPERATOR(^)
  MSL_OPERATOR(<<)
  MSL_OPERATOR(>>)
#undef MSL_OPERATOR

#define MSL_OPERATOR(op)                                                   \
  friend MSL_INLINE vec<bool, n> operator op(const vec& a, const vec& b) { \
    vec<bool, n> result;                                                   \
    for (int i = 0; i < n; ++i) result[i] = a[i] op b[i];                  \
    return result;                                                         \
  }
  MSL_OPERATOR(==)
  MSL_OPERATOR(!=)
  MSL_OPERATOR(<)
  MSL_OPERATOR(<=)
  MSL_OPERATOR(>)
  MSL_OPERATOR(>=)
  MSL_OPERATOR(&&)
  MSL_OPERATOR(||)
#undef MSL_OPERATOR

#define MSL_OPERATOR(op)                                \
  friend MSL_INLINE vec operator op(const vec& a) {     \
    vec result;                                         \
    for (int i = 0; i < n; ++i) result[i] = T(op a[i]); \
    return result;                                      \
  }
  MSL_OPERATOR(+)
  MSL_OPERATOR(-)
  MSL_OPERATOR(~)
  MSL_OPERATOR(!)
#undef MSL_OPERATOR

 private:
  MSL_INLINE void fill(int) {}
  template <class First, class... Rest>
  MSL_INLINE void fill(int at, const First& first, const Rest&... rest) {
    elements[at] = T(first);
    fill(at + 1, rest...);
  }
  template <class U, int m, class... Rest>
  MSL_INLINE void fill(int at, const vec<U, m>& first, const Rest&... rest) {
    for (int i = 0; i < m; ++i) elements[at + i] = T(first[i]);
    fill(at + m, rest...);
  }
  template <class Vector, int size, int... indices, class... Rest>
  MSL_INLINE void fill(int at, const swizzle<Vector, size, indices...>& first, const Rest&... rest) {
    fill(at, Vector(first), rest...);
  }
};

// Elements without padding and with the alignment of one.
template <class T, int n>
struct packed_vec {
  T elements[n];

  packed_vec() = default;
  MSL_INLINE packed_vec(const vec<T, n>& other) {
    for (int i = 0; i < n; ++i) elements[i] = other[i];
  }
  MSL_INLINE operator vec<T, n>() const {
    vec<T, n> result;
    for (int i = 0; i < n; ++i) result[i] = elements[i];
    return result;
  }
  template <class Index>
  MSL_INLINE T& operator[](Index i) {
    return elements[i];
  }
  template <class Index>
  MSL_INLINE const T& operator[](Index i) const {
    return elements[i];
  }
};

#define MSL_VECTORS(T)                    \
  using T##2 = vec<T, 2>;                 \
  using T##3 = vec<T, 3>;                 \
  using T##4 = vec<T, 4>;                 \
  using packed_##T##2 = packed_vec<T, 2>; \
  using packed_##T##3 = packed_vec<T, 3>; \
  using packed_##T##4 = packed_vec<T, 4>;
MSL_VECTORS(bool)
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

static_assert(sizeof(float3) == 16 && sizeof(packed_float3) == 12 && alignof(half4) == 8, "Metal's layout");

}  // namespace metal
