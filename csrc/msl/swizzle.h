// Components of vectors taken together, `v.zyx`, for reading and for writing.
#pragma once

#include "scalar.h"

namespace metal {

template <class T, int n>
struct vec;

template <class Vector>
struct element_of;
template <class T, int n>
struct element_of<vec<T, n>> {
  using type = T;
};

// Lies in the same memory as the `size` elements of a vector; Vector is the type of the chosen components.
template <class Vector, int size, int... indices>
struct swizzle {
  typename element_of<Vector>::type elements[size];

  template <class Index>
  MSL_INLINE typename element_of<Vector>::type operator[](Index i) const {
    return Vector(*this)[i];
  }
  MSL_INLINE operator Vector() const { return Vector{elements[indices]...}; }
  MSL_INLINE swizzle& operator=(const Vector& vector) {
    const Vector copy = vector;
    int i = 0;
    const int order[] = {indices...};
    for (int index : order) elements[index] = copy[i++];
    return *this;
  }
  MSL_INLINE swizzle& operator=(const swizzle& other) { return *this = Vector(other); }
  MSL_INLINE swizzle& operator+=(const Vector& other) { return *this = Vector(*this) + other; }
  MSL_INLINE swizzle& operator-=(const Vector& other) { return *this = Vector(*this) - other; }
  MSL_INLINE swizzle& operator*=(const Vector& other) { return *this = Vector(*this) * other; }
  MSL_INLINE swizzle& operator/=(const Vector& other) { return *this = Vector(*this) / other; }
};

}  // namespace metal

// MSL_SWIZZLES(n) declares all of a vec<T, n>: it goes through its letters on up to four levels, and since a macro does
// not expand inside of itself, each level has its own list.
#define MSL_FIRST_2(M, ...) M(x, 0, __VA_ARGS__) M(y, 1, __VA_ARGS__)
#define MSL_FIRST_3(M, ...) MSL_FIRST_2(M, __VA_ARGS__) M(z, 2, __VA_ARGS__)
#define MSL_FIRST_4(M, ...) MSL_FIRST_3(M, __VA_ARGS__) M(w, 3, __VA_ARGS__)
#define MSL_SECOND_2(M, ...) M(x, 0, __VA_ARGS__) M(y, 1, __VA_ARGS__)
#define MSL_SECOND_3(M, ...) MSL_SECOND_2(M, __VA_ARGS__) M(z, 2, __VA_ARGS__)
#define MSL_SECOND_4(M, ...) MSL_SECOND_3(M, __VA_ARGS__) M(w, 3, __VA_ARGS__)
#define MSL_THIRD_2(M, ...) M(x, 0, __VA_ARGS__) M(y, 1, __VA_ARGS__)
#define MSL_THIRD_3(M, ...) MSL_THIRD_2(M, __VA_ARGS__) M(z, 2, __VA_ARGS__)
#define MSL_THIRD_4(M, ...) MSL_THIRD_3(M, __VA_ARGS__) M(w, 3, __VA_ARGS__)
#define MSL_FOURTH_2(M, ...) M(x, 0, __VA_ARGS__) M(y, 1, __VA_ARGS__)
#define MSL_FOURTH_3(M, ...) MSL_FOURTH_2(M, __VA_ARGS__) M(z, 2, __VA_ARGS__)
#define MSL_FOURTH_4(M, ...) MSL_FOURTH_3(M, __VA_ARGS__) M(w, 3, __VA_ARGS__)

#define MSL_OF_TWO(b, j, n, a, i) swizzle<vec<T, 2>, n, i, j> a##b;
#define MSL_OF_THREE(c, k, b, j, n, a, i) swizzle<vec<T, 3>, n, i, j, k> a##b##c;
#define MSL_OF_FOUR(d, l, c, k, b, j, n, a, i) swizzle<vec<T, 4>, n, i, j, k, l> a##b##c##d;
#define MSL_TWO(a, i, n) MSL_SECOND_##n(MSL_OF_TWO, n, a, i)
#define MSL_THREE(a, i, n) MSL_SECOND_##n(MSL_THREE_FROM, n, a, i)
#define MSL_THREE_FROM(b, j, n, a, i) MSL_THIRD_##n(MSL_OF_THREE, b, j, n, a, i)
#define MSL_FOUR(a, i, n) MSL_SECOND_##n(MSL_FOUR_FROM, n, a, i)
#define MSL_FOUR_FROM(b, j, n, a, i) MSL_THIRD_##n(MSL_FOUR_FROM_TWO, b, j, n, a, i)
#define MSL_FOUR_FROM_TWO(c, k, b, j, n, a, i) MSL_FOURTH_##n(MSL_OF_FOUR, c, k, b, j, n, a, i)

#define MSL_SWIZZLES(n) MSL_FIRST_##n(MSL_TWO, n) MSL_FIRST_##n(MSL_THREE, n) MSL_FIRST_##n(MSL_FOUR, n)
