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
  for (std::size_t i = 0; i < n; i += Simd::lanes) {
    const Simd::Float key = load(k, i, n);
    unroll<rows>(
        [&]<int r>() { sums[r] = Simd::multiply_add(Simd::multiply(decay, load(state + r * n, i, n)), key, sums[r]); });
  }
  Simd::Float deltas[rows];
  unroll<rows>([&]<int r>() {
    const float wanted = tokens.v[t * tokens.v_stride + row + r];
    deltas[r] = Simd::broadcast(tokens.beta[t * tokens.head_stride] * (wanted - Simd::sum(sums[r])));
    sums[r] = Simd::zero();
  });
  for (std::size_t i = 0; i < n; i += Simd::lanes) {
    const Simd::Float key = load(k, i, n), query = load(q, i, n);
    unroll<rows>([&]<int r>() {
      const Simd::Float decayed = Simd::multiply(decay, load(state + r * n, i, n));
      const Simd::Float updated = Simd::multiply_add(deltas[r], key, decayed);
      store(state + r * n, i, n, updated);
      sums[r] = Simd::multiply_add(updated, query, sums[r]);
    });
  }
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
inline Simd::Float load_taps(WeightVector weight, const ConvolutionChannels& channels, std::size_t channel,
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

// The usual kernel of four taps at once.
inline void load_four_taps(WeightVector weight, const ConvolutionChannels& channels, std::size_t channel,
                           Simd::Float* taps) {
  float elements[4 * Simd::lanes];
  unroll<4>([&]<int i>() {
    const std::size_t first = 4 * channel + i * Simd::lanes, n = 4 * channels.n_channels;
    Simd::store(elements + i * Simd::lanes,
                first < n ? load_elements(weight.dtype, weight.weight, first, n) : Simd::zero());
  });
  unroll<4>([&]<int j>() { taps[j] = Simd::load_strided<4>(elements + j); });
}

inline void convolve(const ConvolutionChannels& channels, const float* x, WeightVector weight, float* state,
                     float* out) {
  const std::size_t width = channels.n_channels, history = channels.kernel_size - 1;
  const std::size_t end = channels.first + channels.count;
  // Row r of the window: the state for r < history, then the tokens.
  const auto row = [&](std::size_t r) { return r < history ? state + r * width : x + (r - history) * width; };
  for (std::size_t c = channels.first; c < end; c += Simd::lanes) {
    constexpr std::size_t taps_at_once = 8;
    Simd::Float taps[taps_at_once];
    if (channels.kernel_size == 4) {
      load_four_taps(weight, channels, c, taps);
    } else {
      for (std::size_t j = 0; j < channels.kernel_size && j < taps_at_once; ++j)
        taps[j] = load_taps(weight, channels, c, j);
    }
    for (std::size_t t = 0; t < channels.n_tokens; ++t) {
      Simd::Float sum = Simd::zero();
      for (std::size_t j = 0; j < channels.kernel_size; ++j) {
        const Simd::Float tap = j < taps_at_once ? taps[j] : load_taps(weight, channels, c, j);
        sum = Simd::multiply_add(tap, load(row(t + j), c, end), sum);
      }
      store(out + t * width, c, end, silu(sum));
    }
  }
  // Ascending, so that state rows are read before they are overwritten.
  for (std::size_t r = 0; r < history; ++r) {
    const float* source = row(r + channels.n_tokens);
    __builtin_memmove(state + r * width + channels.first, source + channels.first, channels.count * sizeof(float));
  }
}

}  // namespace
}  // namespace moeflux::cpu
