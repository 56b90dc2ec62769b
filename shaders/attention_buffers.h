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

// Output i of a head: times the output gate if there is one.
inline void store_output(Attention buffers, constant AttentionParams& params, ulong head, uint i, float value) {
  if (output_gate != 0) value *= sigmoid(buffers.q_proj[head * params.q_head_stride + params.head_dim + i]);
  buffers.out[head * params.head_dim + i] = value;
}
