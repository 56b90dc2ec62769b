// What differs between instruction sets: one table of plain functions for each. Knows no dispatch and no thread.
//
// Every function computes an output value in one order of operations that depends on the instruction set alone, not on
// how many rows or tokens are computed by one call.
#pragma once
#include <cstddef>
#include <cstdint>

#include "cpu/kernel.h"
#include "params.h"

namespace moeflux::cpu {

// A weight matrix [rows, cols]; how its bytes are read is the format's business.
struct Weights {
  const std::byte* weight;
  const std::byte* scales;
  const std::byte* biases;
  std::size_t rows;
  std::size_t cols;
};

// Dot products of weight rows with activation rows, for one format.
struct RowDots {
  std::uint32_t format;
  // Bytes of one prepared activation row of `cols` columns; 0 if rows are used as they are.
  std::size_t (*prepared_nbytes)(const RowDots&, std::size_t cols);
  void (*prepare)(const RowDots&, const float* x, std::size_t cols, std::byte* prepared);
  // out[t][i] = row (first_row + i) . x[t] for i < n_rows and t < n_tokens <= max_tokens.
  void (*dot)(const RowDots&, const Weights&, std::size_t first_row, std::size_t n_rows, const std::byte* const* x,
              std::size_t n_tokens, float* const* out);

  // out[0 .. cols - 1] = row `row` itself.
  void (*decode)(const RowDots&, const Weights&, std::size_t row, float* out);

  static constexpr std::size_t max_tokens = 128;
};

// A weight vector of any dtype; unaligned.
struct WeightVector {
  const std::byte* weight;
  Dtype dtype;
};

// Keys or values of one key/value head: row p starts at p * stride.
struct HeadRows {
  const float* rows;
  std::size_t stride;
};

// Softmax attention of some heads over one block of keys, not yet normalised: weights are relative to the block's
// largest score.
struct AttentionBlock {
  std::size_t n_heads;  // that share the key/value head
  std::size_t head_dim;
  std::size_t n_keys;  // at most max_keys
  float scale;
  bool cached;  // whether keys and values are in a near cache

  static constexpr std::size_t max_keys = 128;
  // Floats of one head's state: largest score, sum of weights, weighted sum of values [head_dim].
  std::size_t state_length() const { return 2 + head_dim; }
};

// Tokens of one value head of a gated delta net; consecutive tokens are *_stride floats apart.
struct DeltaNetTokens {
  std::size_t n_tokens;
  std::size_t key_dim;
  const float* q;
  const float* k;
  std::size_t qk_stride;
  const float* v;  // of the first state row
  std::size_t v_stride;
  const float* decay;
  const float* beta;
  std::size_t head_stride;
  float* out;  // of the first state row
  std::size_t out_stride;
};

// Channels first .. first + count - 1 of a causal depthwise convolution.
struct ConvolutionChannels {
  std::size_t first;
  std::size_t count;
  std::size_t n_channels;
  std::size_t kernel_size;
  std::size_t n_tokens;
};

struct Functions {
  RowDots (*row_dots)(std::uint32_t format);
  // With activations in 8 bits.
  RowDots (*int8_row_dots)(std::uint32_t format);

  // Of n floats, n a multiple of 128: adds as they come from memory, with as few instructions as the vectors allow.
  float (*sum)(const float* x, std::size_t n);
  // out = the weights as float32
  void (*widen)(WeightVector weight, std::size_t n, float* out);
  void (*rms_norm)(const float* x, WeightVector weight, std::size_t n, float epsilon, float* out);
  // rms_norm(x) * silu(z)
  void (*gated_rms_norm)(const float* x, const float* z, WeightVector weight, std::size_t n, float epsilon, float* out);
  // x * rsqrt(sum x^2 + epsilon) * scale
  void (*l2_norm)(const float* x, std::size_t n, float epsilon, float scale, float* out);
  // out = silu(a) * b
  void (*silu_multiply)(const float* a, const float* b, std::size_t n, float* out);
  // out *= sigmoid(x)
  void (*multiply_sigmoid)(const float* x, std::size_t n, float* out);
  // h += sum_k weights[k] * rows[k * n ...] + shared_weight * shared, without the last term if shared is null
  void (*combine)(const float* rows, const float* weights, std::size_t n_rows, const float* shared, float shared_weight,
                  std::size_t n, float* h);

  // state[h] of every head of the block from its q [n_heads, head_dim].
  void (*attend)(const AttentionBlock&, const float* q, HeadRows keys, HeadRows values, float* state);
  // state += other: softmax over the union of their keys.
  void (*merge_attention)(std::size_t head_dim, const float* other, float* state);
  // out = weighted sum / sum of weights
  void (*finish_attention)(std::size_t head_dim, const float* state, float* out);

  // Runs `n_rows` rows of a state [value_dim, key_dim] through all tokens.
  void (*delta_rule)(const DeltaNetTokens&, std::size_t n_rows, float* state);
  void (*convolve)(const ConvolutionChannels&, const float* x, WeightVector weight, float* state, float* out);
};

// The table of an instruction set that this build has.
const Functions& functions(InstructionSet set);
RowDots row_dots(Target target, std::uint32_t format);

}  // namespace moeflux::cpu
