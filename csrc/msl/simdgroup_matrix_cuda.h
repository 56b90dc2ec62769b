// 8x8 matrices spread over a warp, multiplied by tensor cores for doubles or through shuffles.
#pragma once

#include "simdgroup_cuda.h"
#include "simdgroup_matrix.h"

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
  for (uint i = 0; i < 2; ++i) matrix.held[i] = pointer[matrix_offset(row, col + i, stride, origin, transpose)];
}

template <class T>
MSL_INLINE void simdgroup_store(const simdgroup_matrix<T, 8, 8>& matrix, T* pointer, ulong stride = 8,
                                vec<ulong, 2> origin = vec<ulong, 2>(0ul), bool transpose = false) {
  const uint row = matrix_row(msl::lane_index()), col = matrix_col(msl::lane_index());
  for (uint i = 0; i < 2; ++i) pointer[matrix_offset(row, col + i, stride, origin, transpose)] = matrix.held[i];
  __syncwarp();
}

#if __CUDA_ARCH__ == 800 || __CUDA_ARCH__ == 900 || __CUDA_ARCH__ == 1000

// d = a b + c, by tensor cores for doubles, which these chips have many of: products of floats are exact, and the eight
// of an element are rounded once.
template <class D, class A, class B, class C>
MSL_INLINE void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                              const simdgroup_matrix<B, 8, 8>& b, const simdgroup_matrix<C, 8, 8>& c) {
  // One instruction multiplies four columns of a with four rows of b. A lane's two columns of a are in two of them, so
  // the even columns come first; the instruction wants b by columns.
  const uint lane = msl::lane_index(), from = lane % 4 * 8 + lane / 8;
  const bool odd = lane / 4 % 2 != 0;
  double sums[2] = {double(float(c.held[0])), double(float(c.held[1]))};
  for (uint i = 0; i < 2; ++i) {
    const float left = float(a.held[i]);
    const float first = msl::from_lane(float(b.held[0]), from + 4 * i);
    const float second = msl::from_lane(float(b.held[1]), from + 4 * i);
    asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+d"(sums[0]), "+d"(sums[1])
        : "d"(double(left)), "d"(double(odd ? second : first)));
  }
  for (uint i = 0; i < 2; ++i) d.held[i] = D(float(sums[i]));
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
  for (uint i = 0; i < 2; ++i) d.held[i] = D(sums[i]);
}

#endif

template <class D, class A, class B>
MSL_INLINE void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                   const simdgroup_matrix<B, 8, 8>& b) {
  simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<float, 8, 8>(0.0f));
}

}  // namespace metal
