// Four neighbouring activations at a time.
#pragma once
#include "common.h"

// Values i .. i + 3 of n, zero from n on. `aligned`: rows are a multiple of four floats.
template <bool aligned>
inline float4 load_four(device const float* row, uint i, uint n) {
  if (i >= n) return float4(0.0f);
  if (aligned) return *reinterpret_cast<device const float4*>(row + i);
  return float4(row[i], i + 1 < n ? row[i + 1] : 0.0f, i + 2 < n ? row[i + 2] : 0.0f, i + 3 < n ? row[i + 3] : 0.0f);
}

// The counterpart of load_four: nothing is written from n on.
template <bool aligned>
inline void store_four(float4 values, device float* row, uint i, uint n) {
  if (aligned) {
    if (i < n) *reinterpret_cast<device float4*>(row + i) = values;
  } else {
    for (uint j = 0; j < 4; ++j) {
      if (i + j < n) row[i + j] = values[j];
    }
  }
}

inline float add_dot(float4 a, float4 b, float sum) {
  return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}
