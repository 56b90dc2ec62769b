// The buffers of attention, and what its decode and prefill share.
#pragma once
#include "common.h"
#include "params.h"
#include "vector_loads.h"

// Below every score; finite, so that a difference of two of them is a number.
constant float lowest_score = -1e38f;

struct Attention {
  device const float* q;
  device const float* keys;
  device const float* values;
  device const float* q_proj;
  device float* out;
};

// Value i of an output head times its output gate if there is one. `projection` is the head's of q_proj.
inline float gated_output(float value, device const float* projection, uint head_dim, uint i) {
  return output_gate != 0 ? value * sigmoid(projection[head_dim + i]) : value;
}
