// 8x8 matrices spread over a warp, multiplied through shuffles.
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

template <class D, class A, class B>
MSL_INLINE void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                   const simdgroup_matrix<B, 8, 8>& b) {
  simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<float, 8, 8>(0.0f));
}

}  // namespace metal
