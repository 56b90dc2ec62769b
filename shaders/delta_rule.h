// What the two forms of the gated delta rule share.
#pragma once
#include "common.h"
#include "params.h"

// The buffers of gated_delta_net.
struct DeltaRule {
  device const float* qkv;
  device const float* decay;
  device const float* beta;
  device float* state;
  device float* out;
};

// Where the heads of one threadgroup lie.
struct DeltaHead {
  uint key_dim;
  uint value_dim;
  uint index;  // value head
  uint qkv_width;
  uint q;  // columns of qkv
  uint k;
  uint v;
};

inline DeltaHead delta_head(constant GatedDeltaNetParams& params, uint index) {
  const uint key_width = params.n_key_heads * params.key_dim;
  const uint key_head = index / (params.n_value_heads / params.n_key_heads);
  DeltaHead head;
  head.key_dim = params.key_dim;
  head.value_dim = params.value_dim;
  head.index = index;
  head.qkv_width = 2 * key_width + params.n_value_heads * params.value_dim;
  head.q = key_head * params.key_dim;
  head.k = key_width + head.q;
  head.v = 2 * key_width + index * params.value_dim;
  return head;
}
