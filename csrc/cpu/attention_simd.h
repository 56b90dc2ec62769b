// Softmax attention over blocks of keys, written once for all instruction sets.
#pragma once
#include "cpu/functions.h"
#include "cpu/simd_math.h"

namespace moeflux::cpu {
namespace {

constexpr std::size_t scores_stride = AttentionBlock::max_keys;

// out[h][i] = sum of the lanes of v[h][i], many at once where the vectors can.
template <typename Lanes = Simd, int heads, int count>
void lane_sums(const Simd::Float (&v)[heads][count], float (&out)[heads][count]) {
  if constexpr (requires { Lanes::sums(v, out); }) {
    Lanes::sums(v, out);
  } else {
    unroll<heads>([&]<int h>() { unroll<count>([&]<int i>() { out[h][i] = Simd::sum(v[h][i]); }); });
  }
}

// scores[h, i] = q[h] . keys[i] * scale for a tile of heads and keys.
template <int heads, int count>
void score_keys(const AttentionBlock& block, const float* q, const float* keys, std::size_t stride, float* scores) {
  Simd::Float sums[heads][count];
  unroll<heads>([&]<int h>() { unroll<count>([&]<int i>() { sums[h][i] = Simd::zero(); }); });
  for_each_vector(block.head_dim, [&](std::size_t d, auto part) {
    Simd::Float key[count];
    unroll<count>([&]<int i>() { key[i] = load(keys + i * stride + d, part); });
    unroll<heads>([&]<int h>() {
      const Simd::Float query = load(q + h * block.head_dim + d, part);
      unroll<count>([&]<int i>() { sums[h][i] = Simd::multiply_add(query, key[i], sums[h][i]); });
    });
  });
  float dots[heads][count];
  lane_sums(sums, dots);
  unroll<heads>(
      [&]<int h>() { unroll<count>([&]<int i>() { scores[h * scores_stride + i] = dots[h][i] * block.scale; }); });
}

template <int count>
void score_keys(const AttentionBlock& block, std::size_t n_heads, const float* q, const float* keys, std::size_t stride,
                float* scores) {
  constexpr int heads = Simd::lanes == 16 ? 4 : 2;
  std::size_t h = 0;
  for (; h + heads <= n_heads; h += heads) {
    score_keys<heads, count>(block, q + h * block.head_dim, keys, stride, scores + h * scores_stride);
  }
  for (; h < n_heads; ++h) {
    score_keys<1, count>(block, q + h * block.head_dim, keys, stride, scores + h * scores_stride);
  }
}

// What is not a number is left out; its weight shows it.
inline float largest_score(const float* scores, std::size_t n) {
  Simd::Float lanes = Simd::broadcast(-__builtin_inff());
  std::size_t i = 0;
  for (; i + Simd::lanes <= n; i += Simd::lanes) lanes = Simd::maximum(Simd::load(scores + i), lanes);
  float of_lanes[Simd::lanes];
  Simd::store(of_lanes, lanes);
  float largest = -__builtin_inff();
  for (const float score : of_lanes) largest = score > largest ? score : largest;
  for (; i < n; ++i) largest = scores[i] > largest ? scores[i] : largest;
  return largest;
}

// Turns scores into e^(score - largest); returns the largest score and the sum.
struct BlockWeights {
  float largest;
  float sum;
};

inline BlockWeights softmax_weights(float* scores, std::size_t n) {
  const float largest = largest_score(scores, n);
  // Lanes beyond n add nothing.
  Simd::Float sum = Simd::zero();
  for_each_vector(n, [&](std::size_t i, auto part) {
    const Simd::Float weights = exponential(Simd::subtract(load(scores + i, part), Simd::broadcast(largest)));
    store(scores + i, weights, part);
    sum = Simd::add(sum, load(scores + i, part));
  });
  return {largest, Simd::sum(sum)};
}

// Columns d .. of sum_i weights[h, i] * values[i], keys ascending, for a tile of heads and vectors.
template <int heads, int vectors, typename Extent>
void weigh_values(const AttentionBlock& block, const float* weights, HeadRows values, std::size_t d, Extent part,
                  float* state) {
  Simd::Float sums[heads][vectors];
  unroll<heads>([&]<int h>() { unroll<vectors>([&]<int i>() { sums[h][i] = Simd::zero(); }); });
  for (std::size_t key = 0; key < block.n_keys; ++key) {
    const float* row = values.rows + key * values.stride + d;
    Simd::Float value[vectors];
    unroll<vectors>([&]<int i>() { value[i] = load(row + i * Simd::lanes, part); });
    unroll<heads>([&]<int h>() {
      const Simd::Float weight = Simd::broadcast(weights[h * scores_stride + key]);
      unroll<vectors>([&]<int i>() { sums[h][i] = Simd::multiply_add(weight, value[i], sums[h][i]); });
    });
  }
  unroll<heads>([&]<int h>() {
    float* out = state + h * block.state_length() + 2 + d;
    unroll<vectors>([&]<int i>() { store(out + i * Simd::lanes, sums[h][i], part); });
  });
}

template <int heads>
void weigh_values(const AttentionBlock& block, const float* weights, HeadRows values, float* state) {
  constexpr int vectors = Simd::lanes == 16 ? 4 : 2;
  std::size_t d = 0;
  for (; d + vectors * Simd::lanes <= block.head_dim; d += vectors * Simd::lanes) {
    weigh_values<heads, vectors>(block, weights, values, d, Whole{}, state);
  }
  for_each_vector(block.head_dim - d, [&](std::size_t i, auto part) {
    weigh_values<heads, 1>(block, weights, values, d + i, part, state);
  });
}

// Rows of one head lie further apart than the processor's own prefetcher follows.
inline void prefetch_row(const float* row, std::size_t n) {
  for (std::size_t i = 0; i < n; i += 64 / sizeof(float)) __builtin_prefetch(row + i);
}

// Keys and values are read once for all heads that fit the table of scores.
inline void attend(const AttentionBlock& block, const float* q, HeadRows keys, HeadRows values, float* state) {
  constexpr std::size_t most_heads = 8, keys_at_once = 4, heads_at_once = 4;
  for (std::size_t first = 0; first < block.n_heads; first += most_heads) {
    const std::size_t n_heads = block.n_heads - first < most_heads ? block.n_heads - first : most_heads;
    const float* queries = q + first * block.head_dim;
    float* states = state + first * block.state_length();
    float scores[most_heads * scores_stride];
    std::size_t key = 0;
    for (; key + keys_at_once <= block.n_keys; key += keys_at_once) {
      for (std::size_t i = key; i < key + keys_at_once && !block.cached; ++i) {
        prefetch_row(keys.rows + (i + 2 * keys_at_once) * keys.stride, block.head_dim);
        prefetch_row(values.rows + i * values.stride, block.head_dim);
      }
      score_keys<keys_at_once>(block, n_heads, queries, keys.rows + key * keys.stride, keys.stride, scores + key);
    }
    for (; key < block.n_keys; ++key) {
      score_keys<1>(block, n_heads, queries, keys.rows + key * keys.stride, keys.stride, scores + key);
    }
    for (std::size_t h = 0; h < n_heads; ++h) {
      const BlockWeights weights = softmax_weights(scores + h * scores_stride, block.n_keys);
      states[h * block.state_length()] = weights.largest;
      states[h * block.state_length() + 1] = weights.sum;
    }
    std::size_t h = 0;
    for (; h + heads_at_once <= n_heads; h += heads_at_once) {
      weigh_values<heads_at_once>(block, scores + h * scores_stride, values, states + h * block.state_length());
    }
    for (; h < n_heads; ++h) {
      weigh_values<1>(block, scores + h * scores_stride, values, states + h * block.state_length());
    }
  }
}

inline float exponential_of(float x) {
  float lanes[Simd::lanes];
  Simd::store(lanes, exponential(Simd::broadcast(x)));
  return lanes[0];
}

inline void merge_attention(std::size_t head_dim, const float* other, float* state) {
  const float largest = other[0] > state[0] ? other[0] : state[0];
  const float factor = exponential_of(state[0] - largest), other_factor = exponential_of(other[0] - largest);
  state[0] = largest;
  state[1] = state[1] * factor + other[1] * other_factor;
  for_each_vector(head_dim, [&](std::size_t d, auto part) {
    const Simd::Float scaled = Simd::multiply(load(state + 2 + d, part), Simd::broadcast(factor));
    const Simd::Float added = load(other + 2 + d, part);
    store(state + 2 + d, Simd::multiply_add(added, Simd::broadcast(other_factor), scaled), part);
  });
}

inline void finish_attention(std::size_t head_dim, const float* state, float* out) {
  const Simd::Float factor = Simd::broadcast(1.0f / state[1]);
  for_each_vector(head_dim, [&](std::size_t d, auto part) {
    store(out + d, Simd::multiply(load(state + 2 + d, part), factor), part);
  });
}

}  // namespace
}  // namespace moeflux::cpu
