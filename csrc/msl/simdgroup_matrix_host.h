// 8x8 matrices spread over a simdgroup, on the host.
#pragma once

#include "race.h"
#include "simdgroup_host.h"
#include "simdgroup_matrix.h"

namespace msl {

// Nothing.
template <class T>
struct MatrixMemory {
  void fill(T) {}
  void forget() {}
};

}  // namespace msl

namespace metal {

template <class T, int rows, int cols>
MSL_INLINE simdgroup_matrix<T, rows, cols>::simdgroup_matrix(T diagonal) {
  const uint row = matrix_row(msl::current->lane()), col = matrix_col(msl::current->lane());
  for (uint i = 0; i < 2; ++i) held[i] = row == col + i ? diagonal : T(0);
}

// The lanes move a matrix together: which of them touches which element is not defined, so all of them count as one.
template <class T>
MSL_UNWATCHED void simdgroup_load(simdgroup_matrix<T, 8, 8>& matrix, const T* pointer, ulong stride = 8,
                                  ulong2 origin = ulong2(0ul), bool transpose = false, MSL_SITE) {
  const auto exchanged = msl::exchange(0, site);
  for (uint i = 0; i < 2; ++i) {
    const uint row = matrix_row(exchanged.lane), col = matrix_col(exchanged.lane) + i;
    const T* element = pointer + matrix_offset(row, col, stride, origin, transpose);
    msl::race::note_simdgroup(element, sizeof(T), msl::race::Access::READ, __builtin_return_address(0));
    matrix.held[i] = *element;
  }
}

template <class T>
MSL_UNWATCHED void simdgroup_store(const simdgroup_matrix<T, 8, 8>& matrix, T* pointer, ulong stride = 8,
                                   ulong2 origin = ulong2(0ul), bool transpose = false, MSL_SITE) {
  const auto exchanged = msl::exchange(0, site);
  for (uint i = 0; i < 2; ++i) {
    const uint row = matrix_row(exchanged.lane), col = matrix_col(exchanged.lane) + i;
    T* element = pointer + matrix_offset(row, col, stride, origin, transpose);
    msl::race::note_simdgroup(element, sizeof(T), msl::race::Access::WRITE, __builtin_return_address(0));
    *element = matrix.held[i];
  }
}

// d = a b + c, summed in float.
template <class D, class A, class B, class C>
MSL_UNWATCHED void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                                 const simdgroup_matrix<B, 8, 8>& b, const simdgroup_matrix<C, 8, 8>& c,
                                                 MSL_SITE) {
  const auto exchanged = msl::exchange(vec<float, 4>(a.held[0], a.held[1], b.held[0], b.held[1]), site);
  const uint row = matrix_row(exchanged.lane), col = matrix_col(exchanged.lane);
  float sums[2] = {float(c.held[0]), float(c.held[1])};
  for (uint k = 0; k < 8; k += 2) {
    const float4 left = exchanged.of(row * 4 + k / 2);
    const float4 upper = exchanged.of(k * 4 + col / 2), lower = exchanged.of((k + 1) * 4 + col / 2);
    for (uint i = 0; i < 2; ++i) sums[i] = sums[i] + left[0] * upper[2 + i] + left[1] * lower[2 + i];
  }
  for (uint i = 0; i < 2; ++i) d.held[i] = D(sums[i]);
}

template <class D, class A, class B>
inline void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                               const simdgroup_matrix<B, 8, 8>& b, MSL_SITE) {
  simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<float, 8, 8>(0.0f), site);
}

}  // namespace metal
