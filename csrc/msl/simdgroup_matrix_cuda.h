// 8x8 matrices spread over a warp, multiplied by tensor cores for doubles or through shuffles.
#pragma once

#include "simdgroup_cuda.h"
#include "simdgroup_matrix.h"

namespace msl {

// What products can use of a matrix, each where it is known. Compilers see that, and compute nothing that is not used.
template <class T>
struct MatrixMemory {
  metal::vec<T, 2> of_column;  // the lane's places of the transposed matrix
  double exact[2];             // the lane's elements before they were rounded
  bool has_column = false;
  bool has_exact = false;

  MSL_INLINE void fill(T value) {
    of_column = metal::vec<T, 2>(value);
    exact[0] = exact[1] = double(float(value));
    has_column = has_exact = true;
  }
  MSL_INLINE void forget() { has_column = has_exact = false; }
};

template <class T>
constexpr bool is_float = false;
template <>
constexpr bool is_float<float> = true;

}  // namespace msl

namespace metal {

template <class T, int rows, int cols>
MSL_INLINE simdgroup_matrix<T, rows, cols>::simdgroup_matrix(T diagonal) {
  const uint row = matrix_row(msl::lane_index()), col = matrix_col(msl::lane_index());
  for (uint i = 0; i < 2; ++i) held[i] = row == col + i ? diagonal : T(0);
}

template <class T>
MSL_INLINE void simdgroup_load(simdgroup_matrix<T, 8, 8>& matrix, const T* pointer, ulong stride = 8,
                               vec<ulong, 2> origin = vec<ulong, 2>(0ul), bool transpose = false) {
  __syncwarp();
  const uint row = matrix_row(msl::lane_index()), col = matrix_col(msl::lane_index());
  for (uint i = 0; i < 2; ++i) {
    matrix.held[i] = pointer[matrix_offset(row, col + i, stride, origin, transpose)];
    matrix.memory.of_column[i] = pointer[matrix_offset(col + i, row, stride, origin, transpose)];
  }
  matrix.memory.has_column = true;
  matrix.memory.has_exact = false;
}

// Two neighbours of a column, as a matrix on the right of a product is needed: those that the lane with the transposed
// place holds of a row.
template <class T>
MSL_INLINE vec<T, 2> column_elements(const simdgroup_matrix<T, 8, 8>& matrix) {
  if (matrix.memory.has_column) return matrix.memory.of_column;
  const uint lane = msl::lane_index(), from = lane % 4 * 8 + lane / 8;
  const bool odd = lane / 4 % 2 != 0;
  vec<T, 2> result;
  for (uint i = 0; i < 2; ++i) {
    const T first = msl::from_lane(matrix.held[0], from + 4 * i), second = msl::from_lane(matrix.held[1], from + 4 * i);
    result[i] = odd ? second : first;
  }
  return result;
}

template <class T>
MSL_INLINE void simdgroup_store(const simdgroup_matrix<T, 8, 8>& matrix, T* pointer, ulong stride = 8,
                                vec<ulong, 2> origin = vec<ulong, 2>(0ul), bool transpose = false) {
  const uint row = matrix_row(msl::lane_index()), col = matrix_col(msl::lane_index());
  for (uint i = 0; i < 2; ++i) pointer[matrix_offset(row, col + i, stride, origin, transpose)] = matrix.held[i];
  __syncwarp();
}

#if __CUDA_ARCH__ == 800 || __CUDA_ARCH__ == 900 || __CUDA_ARCH__ == 1000

// d = a b + c, by tensor cores for doubles, which these chips have many of: products of floats are exact, and the sum
// of an element is rounded when it is looked at.
template <class D, class A, class B, class C>
MSL_INLINE void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                              const simdgroup_matrix<B, 8, 8>& b, const simdgroup_matrix<C, 8, 8>& c) {
  // One instruction multiplies four columns of a with four rows of b. A lane's two columns of a are in two of them, so
  // the even columns come first; the instruction wants b by columns.
  const vec<B, 2> column = column_elements(b);
  double sums[2];
  for (uint i = 0; i < 2; ++i) sums[i] = c.memory.has_exact ? c.memory.exact[i] : double(float(c.held[i]));
  for (uint i = 0; i < 2; ++i) {
    asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+d"(sums[0]), "+d"(sums[1])
        : "d"(double(float(a.held[i]))), "d"(double(float(column[i]))));
  }
  for (uint i = 0; i < 2; ++i) {
    d.thread_elements()[i] = D(float(sums[i]));
    d.memory.exact[i] = sums[i];
  }
  d.memory.has_exact = msl::is_float<D>;
}

#else

// d = a b + c, summed in float.
template <class D, class A, class B, class C>
MSL_INLINE void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                              const simdgroup_matrix<B, 8, 8>& b, const simdgroup_matrix<C, 8, 8>& c) {
  const uint row = matrix_row(msl::lane_index()), col = matrix_col(msl::lane_index());
  float sums[2] = {float(c.held[0]), float(c.held[1])};
  for (uint k = 0; k < 8; k += 2) {
    const float left = msl::from_lane(float(a.held[0]), row * 4 + k / 2);
    const float right = msl::from_lane(float(a.held[1]), row * 4 + k / 2);
    for (uint i = 0; i < 2; ++i) {
      const float upper = msl::from_lane(float(b.held[i]), k * 4 + col / 2);
      const float lower = msl::from_lane(float(b.held[i]), (k + 1) * 4 + col / 2);
      sums[i] = sums[i] + left * upper + right * lower;
    }
  }
  for (uint i = 0; i < 2; ++i) d.thread_elements()[i] = D(sums[i]);
}

#endif

template <class D, class A, class B>
MSL_INLINE void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                   const simdgroup_matrix<B, 8, 8>& b) {
  simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<float, 8, 8>(0.0f));
}

}  // namespace metal
