// What matrix kernels share: activations in the form that a format wants, and tiles of rows and tokens. Knows no
// kernel.
#pragma once
#include <cstddef>

#include "cpu/functions.h"

namespace moeflux::cpu {

// Rows that are computed for one block of tokens before the next block: few enough for their weights to stay in a near
// cache.
inline constexpr std::size_t kTileRows = 64;

inline std::size_t n_tiles(std::size_t rows) { return (rows + kTileRows - 1) / kTileRows; }

// Activation rows as `dot` of a format reads them: the rows themselves or prepared copies of them.
class PreparedRows {
 public:
  // Memory needed for `n_rows` rows.
  static std::size_t nbytes(const RowDots& dots, std::size_t n_rows, std::size_t cols) {
    return n_rows * dots.prepared_nbytes(dots, cols);
  }

  PreparedRows(const RowDots& dots, std::size_t cols, std::byte* memory)
      : dots_(dots), cols_(cols), row_nbytes_(dots.prepared_nbytes(dots, cols)), memory_(memory) {}

  // source(i) is activation row i.
  template <typename Source>
  void prepare(ThreadTeam& team, std::size_t n_rows, const Source& source) const {
    if (row_nbytes_ == 0) return;
    team.parallel_for(n_rows, 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) dots_.prepare(dots_, source(i), cols_, memory_ + i * row_nbytes_);
    });
  }

  // Row i, whose activations are `source`.
  const std::byte* row(std::size_t i, const float* source) const {
    return row_nbytes_ == 0 ? reinterpret_cast<const std::byte*>(source) : memory_ + i * row_nbytes_;
  }

 private:
  const RowDots& dots_;
  std::size_t cols_;
  std::size_t row_nbytes_;
  std::byte* memory_;
};

// Up to RowDots::max_tokens tokens: their activations and where the first of their output values goes.
struct TokenBlock {
  std::size_t n_tokens = 0;
  const std::byte* x[RowDots::max_tokens];
  float* out[RowDots::max_tokens];
};

// gate_proj and up_proj of one SwiGLU; the formats may differ.
struct GateUp {
  const Functions& functions;
  RowDots gate_proj;
  RowDots up_proj;

  bool same_format() const { return gate_proj.format == up_proj.format; }

  // out[t][i] = silu(gate_proj[row + i] . x[t]) * (up_proj[row + i] . up_x[t]) for i < n_rows <= kTileRows.
  void tile(const Weights& gate_weights, const Weights& up_weights, std::size_t row, std::size_t n_rows,
            const TokenBlock& tokens, const std::byte* const* up_x) const;
};

}  // namespace moeflux::cpu
