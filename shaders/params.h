// Parameter structs of every kernel, shared by the shaders, the C++ backends and, by size, the Python ops.
// Every kernel binds its buffers first, then its struct, then Step. Activations are float32 [n_tokens, width], row
// major.
//
// Letters: T n_tokens, D hidden, H heads, Hkv key/value heads, Dh head_dim, E experts, K top_k, F expert FFN width, S
// slots. "triple" is three buffers: weight, scales, biases; an unquantised matrix binds its weight three times.
#pragma once

#ifdef __METAL_VERSION__
#include <metal_stdlib>
namespace moeflux {
using uint32 = unsigned int;
using uint64 = unsigned long;
#else
#include <cstdint>
namespace moeflux {
using uint32 = std::uint32_t;
using uint64 = std::uint64_t;
#endif

// Element types of unquantised tensors and of quantisation scales and biases.
enum Dtype : uint32 { FLOAT32 = 0, FLOAT16 = 1, BFLOAT16 = 2 };

// A matrix format packed in one function constant: bits | group_size << 8 | dtype << 24.
// bits == 0: unquantised elements of `dtype`. Otherwise affine codes of `bits` bits, lowest bits first in a
// little-endian bit stream, weight = code * scale + bias with one scale and bias of `dtype` per group_size columns.
inline constexpr uint32 format_bits(uint32 quant_format) { return quant_format & 0xff; }
inline constexpr uint32 format_group_size(uint32 quant_format) { return (quant_format >> 8) & 0xffff; }
inline constexpr uint32 format_dtype(uint32 quant_format) { return quant_format >> 24; }

// All that changes between two replays of a recording: the first token's position, how many tokens are processed, and
// whether they are part of a prompt. A backend may sum in another order for prompts, but not by how many tokens come.
struct Step {
  uint32 position;
  uint32 n_tokens;
  uint32 prefill;
};

// embedding: [triple, tokens int32 [T], out [T, width]]; constants: format.
struct EmbeddingParams {
  uint32 width;
  uint32 vocabulary;
};

// rms_norm: [x [T, width], weight [width], out [T, width]]; constants: weight_dtype.
// out = x * rsqrt(mean(x^2) + epsilon) * weight.
struct RmsNormParams {
  uint32 width;
  float epsilon;
};

// matmul: [triple [rows, cols], x, out]; constants: format, accumulate.
// out[t, r] = (accumulate ? out[t, r] : 0) + sum_c W[r, c] x[t, c]; rows of x and out are *_stride floats apart.
struct MatmulParams {
  uint32 rows;
  uint32 cols;
  uint32 x_stride;
  uint32 out_stride;
};

// gate_up: [gate_proj triple, up_proj triple, x [T, cols], out [T, rows]]; constants: gate_format, up_format.
// out = silu(gate_proj x) * (up_proj x).
struct GateUpParams {
  uint32 rows;
  uint32 cols;
};

// attention_prepare: [q_proj [T, H * q_head_stride], k_proj [T, Hkv * Dh], v_proj [T, Hkv * Dh], q_norm [Dh], k_norm
// [Dh],
//   rope_frequencies [rope_dim / 2], q [T, H * Dh], k_cache [context, Hkv, Dh], v_cache [context, Hkv, Dh]]; constants:
//   norm_dtype.
// RMS norm per head of the first Dh values of each q head and of k; rotates pairs (i, i + rope_dim / 2) of the first
// rope_dim values by position * rope_frequencies[i]; writes q and appends k and v at position .. position + n_tokens
// - 1.
struct AttentionPrepareParams {
  uint32 n_heads;
  uint32 n_kv_heads;
  uint32 head_dim;
  uint32 rope_dim;
  uint32 q_head_stride;
  uint32 context;
  float epsilon;
};

// attention: [q [T, H * Dh], k_cache, v_cache, q_proj [T, H * q_head_stride], out [T, H * Dh]]; constants: output_gate.
// Causal softmax(q k / scale^-1) v over positions 0 .. position + t; head h reads key/value head h / (H / Hkv).
// With output_gate, out is multiplied by sigmoid of the second Dh values of each q_proj head.
struct AttentionParams {
  uint32 n_heads;
  uint32 n_kv_heads;
  uint32 head_dim;
  uint32 q_head_stride;
  uint32 context;
  float scale;
};

// attention_decode: [q, k_cache, v_cache, partials [T, Hkv, n_splits, H / Hkv, 2 + Dh]]. The keys of a token in splits:
// a head's largest score, the sum of e^(score - largest), and that of the values times their e^(score - largest).
struct AttentionDecodeParams {
  uint32 n_heads;
  uint32 n_kv_heads;
  uint32 head_dim;
  uint32 context;
  uint32 n_splits;
  float scale;
};

// attention_merge: [partials, q_proj, out]; constants: output_gate. out as that of attention, from the splits of
// attention_decode.
struct AttentionMergeParams {
  uint32 n_heads;
  uint32 n_kv_heads;
  uint32 head_dim;
  uint32 q_head_stride;
  uint32 n_splits;
};

// The keys of a split, the last one's but for what there is not: as few splits as keep them to whole SPLIT_KEYS.
enum KeySplit : uint32 { SPLIT_KEYS = 128 };
inline constexpr uint32 keys_per_split(uint32 n_keys, uint32 n_splits) {
  return ((n_keys - 1) / (SPLIT_KEYS * n_splits) + 1) * SPLIT_KEYS;
}
// Splits that have keys.
inline constexpr uint32 used_splits(uint32 n_keys, uint32 n_splits) {
  return (n_keys - 1) / keys_per_split(n_keys, n_splits) + 1;
}

// gated_delta_net_split: [qkvz, ba, qkv, z, b, a]. Undoes the interleaving of fused projections: per key head
// qkvz holds q[key_dim] k[key_dim] v[r * value_dim] z[r * value_dim] and ba holds b[r] a[r], r = n_value_heads /
// n_key_heads. qkv is all q, then all k, then all v; z [n_value_heads * value_dim]; b, a [n_value_heads].
struct GatedDeltaNetSplitParams {
  uint32 n_key_heads;
  uint32 n_value_heads;
  uint32 key_dim;
  uint32 value_dim;
};

// gated_delta_net_conv: [x [T, channels], weight [channels, kernel_size], state [kernel_size - 1, channels], out [T,
// channels]]; constants: weight_dtype. Causal depthwise convolution, then SiLU; state holds the last raw rows of x,
// oldest first, and is updated.
struct GatedDeltaNetConvParams {
  uint32 channels;
  uint32 kernel_size;
};

// gated_delta_net_decay: [a [T, n_value_heads], b [T, n_value_heads], a_log, dt_bias, decay, beta];
// constants: a_log_dtype, dt_bias_dtype. decay = exp(-exp(a_log) * softplus(a + dt_bias)), beta = sigmoid(b).
struct GatedDeltaNetDecayParams {
  uint32 n_value_heads;
};

// gated_delta_net: [qkv [T, 2 * n_key_heads * key_dim + n_value_heads * value_dim], decay, beta,
//   state [n_value_heads, value_dim, key_dim], out [T, n_value_heads * value_dim]].
// Per value head h with key head h / (n_value_heads / n_key_heads): q = q * rsqrt(sum q^2 + epsilon) / sqrt(key_dim),
// k = k * rsqrt(sum k^2 + epsilon); S = decay S; S += beta (v - S k) k^T; out = S q.
struct GatedDeltaNetParams {
  uint32 n_key_heads;
  uint32 n_value_heads;
  uint32 key_dim;
  uint32 value_dim;
  float epsilon;
};

// gated_rms_norm: [x [T, n_heads * width], z [T, n_heads * width], weight [width], out]; constants: weight_dtype.
// Per head: out = rms_norm(x, weight) * silu(z).
struct GatedRmsNormParams {
  uint32 n_heads;
  uint32 width;
  float epsilon;
};

// The experts of one dispatch: groups int32 [1 + 3 * n_groups] = n_groups, then (slot, first, count) each; pairs int32
// lists t * top_k + k, so that pairs[first .. first + count - 1] are the rows that the expert in `slot` works for.
struct ExpertMatrix {
  uint32 weight;  // byte offsets inside a slot
  uint32 scales;
  uint32 biases;
};

// expert_gate_up: [slots, x [T, cols], groups, pairs, out [T * top_k, rows]]; constants: gate_format, up_format.
struct ExpertGateUpParams {
  uint64 slot_nbytes;
  uint32 rows;
  uint32 cols;
  uint32 top_k;
  ExpertMatrix gate_proj;
  ExpertMatrix up_proj;
  uint32 reserved;
};

// expert_down: [slots, x [T * top_k, cols], groups, pairs, out [T * top_k, rows]]; constants: format.
struct ExpertDownParams {
  uint64 slot_nbytes;
  uint32 rows;
  uint32 cols;
  uint32 top_k;
  ExpertMatrix down_proj;
};

// moe_combine_norm: [h [T, width], expert_out [T * top_k, width], weights [T, top_k], shared [T, width], shared_gate
// [T], norm_weight [width], out [T, width]]; constants: shared_expert, norm_dtype. h += sum_k weights[k] *
// expert_out[k] (k ascending) + sigmoid(shared_gate) * shared; out = rms_norm(h) * norm_weight.
struct MoeCombineNormParams {
  uint32 width;
  uint32 top_k;
  float epsilon;
};

// router_top_k: [logits [T, n_experts], experts int32 [T, top_k], weights [T, top_k]]; constants: normalise.
// Softmax over all experts; the top_k largest, best first (of equals the lower index); with normalise over their sum.
struct RouterTopKParams {
  uint32 n_experts;
  uint32 top_k;
};

}  // namespace moeflux
