// Which elements of an 8x8 matrix a lane holds: two neighbours of a row.
//
// Apple does not document its order. This one is that of CUDA's matrix instructions and deliberately not Apple's, so
// that kernels which rely on an order show here.
#pragma once

#include "vector.h"

namespace msl {

template <class T>
struct MatrixMemory;

}  // namespace msl

namespace metal {

MSL_INLINE uint matrix_row(uint lane) { return lane / 4; }
MSL_INLINE uint matrix_col(uint lane) { return lane % 4 * 2; }

template <class T, int rows, int cols>
struct simdgroup_matrix {
  static_assert(rows == 8 && cols == 8, "Metal's simdgroup matrices are 8x8");
  vec<T, 2> held;
  msl::MatrixMemory<T> memory;  // what a target keeps beside them

  simdgroup_matrix() = default;
  // A diagonal matrix, as Metal has it.
  MSL_INLINE explicit simdgroup_matrix(T diagonal);
  MSL_INLINE vec<T, 2>& thread_elements() {
    memory.forget();
    return held;
  }
  MSL_INLINE const vec<T, 2>& thread_elements() const { return held; }
};

using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;
using simdgroup_half8x8 = simdgroup_matrix<half, 8, 8>;
using simdgroup_bfloat8x8 = simdgroup_matrix<bfloat, 8, 8>;

template <class T, int rows, int cols>
MSL_INLINE simdgroup_matrix<T, rows, cols> make_filled_simdgroup_matrix(T value) {
  simdgroup_matrix<T, rows, cols> matrix;
  matrix.held = vec<T, 2>(value);
  matrix.memory.fill(value);
  return matrix;
}

// Where element (row, col) of a matrix lies from `pointer` on.
MSL_INLINE ulong matrix_offset(uint row, uint col, ulong stride, vec<ulong, 2> origin, bool transpose) {
  return transpose ? (origin[1] + col) * stride + origin[0] + row : (origin[1] + row) * stride + origin[0] + col;
}

}  // namespace metal
