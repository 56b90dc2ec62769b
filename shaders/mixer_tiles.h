// How large a part of the mixers (norms, attention, gated delta net) one threadgroup computes; shared by the shaders
// and the geometry that launches them.
#pragma once
#include "params.h"

namespace moeflux {

enum MixerTile : uint32 {
  // One threadgroup for a row.
  ROW_NORM_THREADS = 256,
  // One simdgroup for a head.
  HEAD_SIMDGROUPS = 8,

  // A decode step of attention: simdgroups take tiles of a split's keys in turn.
  DECODE_SIMDGROUPS = 8,
  DECODE_KEYS = 4,   // of one lane at a time
  DECODE_HEADS = 2,  // at most, that one threadgroup reads the keys for
  MERGE_THREADS = 256,
  MERGE_LOADS = 8,  // of one value over the splits, at a time

  // Attention of a prompt: tiles of queries and keys at multiples of PREFILL_TILE positions, 4 x 4 products a thread.
  PREFILL_TILE = 64,
  PREFILL_THREADS = 256,
  PREFILL_SCORE_DIMS = 32,  // of queries and keys, staged at a time
  PREFILL_VALUE_KEYS = 32,  // of one block of PREFILL_VALUE_DIMS values, staged at a time
  PREFILL_VALUE_DIMS = 64,
  ATTENTION_MAX_HEAD_DIM = 256,

  // Steps of the gated delta rule: DELTA_LANES lanes share a row of the state.
  DELTA_SIMDGROUPS = 8,
  DELTA_LANES = 8,
  DELTA_ROWS = DELTA_SIMDGROUPS * 32 / DELTA_LANES,
  DELTA_MAX_KEY_DIM = 256,

  // The rule over chunks of tokens at multiples of CHUNK positions, for CHUNK_ROWS rows of the state.
  CHUNK = 32,
  CHUNK_ROWS = 32,
  CHUNK_THREADS = 256,
  CHUNK_BLOCK = CHUNK_THREADS / 32,  // tokens that are solved for at once: one of each simdgroup
  CHUNK_DIMS = 32,                   // staged at a time
  CHUNK_MAX_KEY_DIM = 128,

  // The convolution: tokens of one thread, unless the kernel is longer.
  CONVOLUTION_TOKENS = 16,
};

// Threadgroups of a decode step that share the query heads of one key/value head.
inline constexpr uint32 decode_head_groups(uint32 heads_per_kv_head) {
  return (heads_per_kv_head + DECODE_HEADS - 1) / DECODE_HEADS;
}

}  // namespace moeflux
