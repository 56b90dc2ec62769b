// The gated delta rule and its convolution, written once for all instruction sets.
#pragma once
#include "cpu/functions.h"
#include "cpu/simd_math.h"

namespace moeflux::cpu {
namespace {

// One token for `rows` state rows: S = decay S; S += beta (v - S k) k^T; out = S q.
template <int rows>
void delta_step(const DeltaNetTokens& tokens, std::size_t t, std::size_t row, float* state) {
  const std::size_t n = tokens.key_dim;
  const float* q = tokens.q + t * tokens.qk_stride;
  const float* k = tokens.k + t * tokens.qk_stride;
  const Simd::Float decay = Simd::broadcast(tokens.decay[t * tokens.head_stride]);
  Simd::Float sums[rows];
  unroll<rows>([&]<int r>() { sums[r] = Simd::zero(); });
  for_each_vector(n, [&](std::size_t i, auto part) {
    const Simd::Float key = load(k + i, part);
    unroll<rows>([&]<int r>() {
      const Simd::Float decayed = Simd::multiply(decay, load(state + r * n + i, part));
      sums[r] = Simd::multiply_add(decayed, key, sums[r]);
    });
  });
  Simd::Float deltas[rows];
  unroll<rows>([&]<int r>() {
    const float wanted = tokens.v[t * tokens.v_stride + row + r];
    deltas[r] = Simd::broadcast(tokens.beta[t * tokens.head_stride] * (wanted - Simd::sum(sums[r])));
    sums[r] = Simd::zero();
  });
  for_each_vector(n, [&](std::size_t i, auto part) {
    const Simd::Float key = load(k + i, part), query = load(q + i, part);
    unroll<rows>([&]<int r>() {
      const Simd::Float decayed = Simd::multiply(decay, load(state + r * n + i, part));
      const Simd::Float updated = Simd::multiply_add(deltas[r], key, decayed);
      store(state + r * n + i, updated, part);
      sums[r] = Simd::multiply_add(updated, query, sums[r]);
    });
  });
  unroll<rows>([&]<int r>() { tokens.out[t * tokens.out_stride + row + r] = Simd::sum(sums[r]); });
}

// Rows of the state do not depend on each other: a few at a time run through all tokens while they are in the nearest
// cache.
inline void delta_rule(const DeltaNetTokens& tokens, std::size_t n_rows, float* state) {
  constexpr int rows_at_once = 4;
  std::size_t row = 0;
  for (; row + rows_at_once <= n_rows; row += rows_at_once) {
    for (std::size_t t = 0; t < tokens.n_tokens; ++t) {
      delta_step<rows_at_once>(tokens, t, row, state + row * tokens.key_dim);
    }
  }
  for (; row < n_rows; ++row) {
    for (std::size_t t = 0; t < tokens.n_tokens; ++t) delta_step<1>(tokens, t, row, state + row * tokens.key_dim);
  }
}

// Weight `tap` of `lanes` channels from weights [channels, kernel_size].
inline Simd::Float load_tap(WeightVector weight, const ConvolutionChannels& channels, std::size_t channel,
                            std::size_t tap) {
  const std::size_t n = channels.n_channels * channels.kernel_size;
  float taps[Simd::lanes] = {};
  for (std::size_t lane = 0; lane < Simd::lanes && channel + lane < channels.n_channels; ++lane) {
    float elements[Simd::lanes];
    Simd::store(elements, load_elements(weight.dtype, weight.weight, (channel + lane) * channels.kernel_size + tap, n));
    taps[lane] = elements[0];
  }
  return Simd::load(taps);
}

// A vector of channels from `channel` on, for a kernel of any size.
template <typename Extent>
void convolve_any(const ConvolutionChannels& channels, std::size_t channel, Extent part, const float* x,
                  WeightVector weight, const float* state, float* out) {
  const std::size_t width = channels.n_channels, history = channels.kernel_size - 1;
  for (std::size_t t = 0; t < channels.n_tokens; ++t) {
    Simd::Float sum = Simd::zero();
    for (std::size_t j = 0; j <= history; ++j) {
      const float* row = t + j < history ? state + (t + j) * width : x + (t + j - history) * width;
      sum = Simd::multiply_add(load_tap(weight, channels, channel, j), load(row + channel, part), sum);
    }
    store(out + t * width + channel, silu(sum), part);
  }
}

// The usual kernel of four taps, for `vectors` whole vectors of channels from `channel` on.
template <int vectors>
void convolve_four(const ConvolutionChannels& channels, std::size_t channel, const float* x, WeightVector weight,
                   const float* state, float* out) {
  const std::size_t width = channels.n_channels;
  Simd::Float taps[vectors][4], window[vectors][4];
  unroll<vectors>([&]<int i>() {
    const std::size_t first = channel + i * Simd::lanes;
    Simd::Float elements[4];
    unroll<4>([&]<int j>() {
      elements[j] = load_elements(weight.dtype, weight.weight, 4 * first + j * Simd::lanes, 4 * width);
    });
    deinterleave<4>(elements, taps[i], 0, 1);
    unroll<3>([&]<int j>() { window[i][j] = Simd::load(state + j * width + first); });
  });
  for (std::size_t t = 0; t < channels.n_tokens; ++t) {
    unroll<vectors>([&]<int i>() {
      const std::size_t first = t * width + channel + i * Simd::lanes;
      window[i][3] = Simd::load(x + first);
      Simd::Float sum = Simd::zero();
      unroll<4>([&]<int j>() { sum = Simd::multiply_add(taps[i][j], window[i][j], sum); });
      Simd::store(out + first, silu(sum));
      unroll<3>([&]<int j>() { window[i][j] = window[i][j + 1]; });
    });
  }
}

inline void convolve(const ConvolutionChannels& channels, const float* x, WeightVector weight, float* state,
                     float* out) {
  constexpr int vectors = 2;
  const std::size_t width = channels.n_channels, history = channels.kernel_size - 1;
  const std::size_t end = channels.first + channels.count;
  std::size_t c = channels.first;
  for (; channels.kernel_size == 4 && c + vectors * Simd::lanes <= end; c += vectors * Simd::lanes) {
    convolve_four<vectors>(channels, c, x, weight, state, out);
  }
  for_each_vector(end - c,
                  [&](std::size_t i, auto part) { convolve_any(channels, c + i, part, x, weight, state, out); });
  // Ascending, so that state rows are read before they are overwritten.
  for (std::size_t r = 0; r < history; ++r) {
    const std::size_t newest = r + channels.n_tokens;
    const float* source = newest < history ? state + newest * width : x + (newest - history) * width;
    __builtin_memmove(state + r * width + channels.first, source + channels.first, channels.count * sizeof(float));
  }
}

}  // namespace
}  // namespace moeflux::cpu
