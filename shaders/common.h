// What all shader files share: the function constants, activation functions and sums over lanes.
#pragma once
#include <metal_stdlib>

#include "params.h"

using namespace metal;
using namespace moeflux;

// Every function constant has one index over all shader files; they are bound by name. Formats as params.h packs them,
// element types as Dtype, the others 0 or 1. A kernel only needs those that it uses.
constant uint format [[function_constant(0)]];
constant uint gate_format [[function_constant(1)]];
constant uint up_format [[function_constant(2)]];
constant uint accumulate [[function_constant(3)]];
constant uint shared_expert [[function_constant(4)]];
constant uint normalise [[function_constant(5)]];
constant uint norm_dtype [[function_constant(6)]];
constant uint weight_dtype [[function_constant(7)]];
constant uint output_gate [[function_constant(8)]];
constant uint a_log_dtype [[function_constant(9)]];
constant uint dt_bias_dtype [[function_constant(10)]];
// Not the caller's but the backend's to say: whether the processor multiplies four bytes by four at once.
constant uint fixed_point [[function_constant(11)]];

// 1 / (1 + exp(-x)); 0 and 1 far out.
inline float sigmoid(float x) { return 1.0f / (1.0f + precise::exp(-x)); }

inline float silu(float x) { return x * sigmoid(x); }

// The sum over each `width` neighbouring lanes, in all of them; width is a power of two. All lanes must take part.
inline float lane_sum(float value, uint width) {
  for (uint distance = width / 2; distance > 0; distance /= 2) value += simd_shuffle_xor(value, ushort(distance));
  return value;
}
