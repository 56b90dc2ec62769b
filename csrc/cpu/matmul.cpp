// Matrix products of activations with weight matrices, alone and fused with SwiGLU.
#include <algorithm>

#include "constants.h"
#include "cpu/functions.h"
#include "cpu/matmul_tiles.h"

namespace moeflux::cpu {

void GateUp::tile(const Weights& gate_weights, const Weights& up_weights, std::size_t row, std::size_t n_rows,
                  const TokenBlock& tokens, const std::byte* const* up_x) const {
  float gate[RowDots::max_tokens][kTileRows], up[RowDots::max_tokens][kTileRows];
  float *gate_out[RowDots::max_tokens], *up_out[RowDots::max_tokens];
  for (std::size_t t = 0; t < tokens.n_tokens; ++t) {
    gate_out[t] = gate[t];
    up_out[t] = up[t];
  }
  gate_proj.dot(gate_proj, gate_weights, row, n_rows, tokens.x, tokens.n_tokens, gate_out);
  up_proj.dot(up_proj, up_weights, row, n_rows, up_x, tokens.n_tokens, up_out);
  for (std::size_t t = 0; t < tokens.n_tokens; ++t) functions.silu_multiply(gate[t], up[t], n_rows, tokens.out[t]);
}

namespace {

Weights bound_weights(const Arguments& arguments, std::size_t first_buffer, std::size_t rows, std::size_t cols) {
  return Weights{arguments.buffer<std::byte>(first_buffer), arguments.buffer<std::byte>(first_buffer + 1),
                 arguments.buffer<std::byte>(first_buffer + 2), rows, cols};
}

// Calls body(row, n_rows, first_token, n_tokens) over tiles that cover all rows and tokens.
template <typename Body>
void for_each_tile(ThreadTeam& team, std::size_t rows, std::size_t n_tokens, const Body& body) {
  team.parallel_for(rows, kTileRows, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; row += kTileRows) {
      for (std::size_t t = 0; t < n_tokens; t += RowDots::max_tokens) {
        body(row, std::min(kTileRows, end - row), t, std::min(RowDots::max_tokens, n_tokens - t));
      }
    }
  });
}

void matmul(const RowDots& dots, bool accumulate, const Arguments& arguments, ThreadTeam& team) {
  const auto& params = arguments.params<MatmulParams>();
  const std::size_t n_tokens = arguments.step.n_tokens;
  const Weights weights = bound_weights(arguments, 0, params.rows, params.cols);
  const float* x = arguments.buffer<float>(3);
  float* out = arguments.buffer<float>(4);

  const PreparedRows prepared(dots, params.cols, team.scratch(PreparedRows::nbytes(dots, n_tokens, params.cols)));
  const auto source = [&](std::size_t t) { return x + t * params.x_stride; };
  prepared.prepare(team, n_tokens, source);
  for_each_tile(team, params.rows, n_tokens,
                [&](std::size_t row, std::size_t n_rows, std::size_t first, std::size_t count) {
                  float sums[RowDots::max_tokens][kTileRows];
                  TokenBlock tokens{count, {}, {}};
                  for (std::size_t t = 0; t < count; ++t) {
                    tokens.x[t] = prepared.row(first + t, source(first + t));
                    tokens.out[t] = accumulate ? sums[t] : out + (first + t) * params.out_stride + row;
                  }
                  dots.dot(dots, weights, row, n_rows, tokens.x, count, tokens.out);
                  if (!accumulate) return;
                  for (std::size_t t = 0; t < count; ++t) {
                    float* row_out = out + (first + t) * params.out_stride + row;
                    for (std::size_t i = 0; i < n_rows; ++i) row_out[i] += sums[t][i];
                  }
                });
}

void gate_up(const GateUp& kernel, const Arguments& arguments, ThreadTeam& team) {
  const auto& params = arguments.params<GateUpParams>();
  const std::size_t n_tokens = arguments.step.n_tokens;
  const Weights gate_weights = bound_weights(arguments, 0, params.rows, params.cols);
  const Weights up_weights = bound_weights(arguments, 3, params.rows, params.cols);
  const float* x = arguments.buffer<float>(6);
  float* out = arguments.buffer<float>(7);

  const std::size_t gate_nbytes = PreparedRows::nbytes(kernel.gate_proj, n_tokens, params.cols);
  const std::size_t up_nbytes = PreparedRows::nbytes(kernel.up_proj, n_tokens, params.cols);
  std::byte* memory = team.scratch(gate_nbytes + (kernel.same_format() ? 0 : up_nbytes));
  const PreparedRows gate_x(kernel.gate_proj, params.cols, memory);
  const PreparedRows up_x(kernel.up_proj, params.cols, kernel.same_format() ? memory : memory + gate_nbytes);
  const auto source = [&](std::size_t t) { return x + t * params.cols; };
  gate_x.prepare(team, n_tokens, source);
  if (!kernel.same_format()) up_x.prepare(team, n_tokens, source);
  for_each_tile(team, params.rows, n_tokens,
                [&](std::size_t row, std::size_t n_rows, std::size_t first, std::size_t count) {
                  TokenBlock tokens{count, {}, {}};
                  const std::byte* up_rows[RowDots::max_tokens];
                  for (std::size_t t = 0; t < count; ++t) {
                    tokens.x[t] = gate_x.row(first + t, source(first + t));
                    tokens.out[t] = out + (first + t) * params.rows + row;
                    up_rows[t] = up_x.row(first + t, source(first + t));
                  }
                  kernel.tile(gate_weights, up_weights, row, n_rows, tokens, up_rows);
                });
}

}  // namespace

std::vector<Kernel> matmul_kernels() {
  return {
      {"matmul",
       5,
       sizeof(MatmulParams),
       {"format", "accumulate"},
       [](const Constants& constants, Target target) -> KernelFunction {
         const RowDots dots = row_dots(target, format_constant(constants, "format"));
         const bool accumulate = constant(constants, "accumulate") != 0;
         return [=](const Arguments& arguments, ThreadTeam& team) { matmul(dots, accumulate, arguments, team); };
       }},
      {"gate_up",
       8,
       sizeof(GateUpParams),
       {"gate_format", "up_format"},
       [](const Constants& constants, Target target) -> KernelFunction {
         const GateUp kernel{functions(target), row_dots(target, format_constant(constants, "gate_format")),
                             row_dots(target, format_constant(constants, "up_format"))};
         return [=](const Arguments& arguments, ThreadTeam& team) { gate_up(kernel, arguments, team); };
       }},
  };
}

}  // namespace moeflux::cpu
