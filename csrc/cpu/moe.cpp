// Routed experts by slot, and the sum of their outputs.
#include <algorithm>
#include <cmath>

#include "constants.h"
#include "cpu/functions.h"
#include "cpu/matmul_tiles.h"

namespace moeflux::cpu {
namespace {

// The groups and pairs of one dispatch; layouts in params.h.
class ExpertGroups {
 public:
  struct Group {
    std::size_t slot;
    std::size_t first;
    std::size_t count;
  };

  ExpertGroups(const std::int32_t* groups, const std::int32_t* pairs) : groups_(groups), pairs_(pairs) {}

  std::size_t size() const { return groups_[0]; }
  Group operator[](std::size_t i) const {
    const std::int32_t* group = groups_ + 1 + 3 * i;
    return {static_cast<std::size_t>(group[0]), static_cast<std::size_t>(group[1]), static_cast<std::size_t>(group[2])};
  }
  std::size_t pair(std::size_t i) const { return pairs_[i]; }
  std::size_t n_pairs() const {
    std::size_t n = 0;
    for (std::size_t i = 0; i < size(); ++i) n = std::max(n, (*this)[i].first + (*this)[i].count);
    return n;
  }

  // Calls body(slot, row, n_rows, first, count) over tiles of rows and blocks of pairs that cover all groups.
  template <typename Body>
  void for_each_tile(ThreadTeam& team, std::size_t rows, const Body& body) const {
    const std::size_t tiles = n_tiles(rows);
    team.parallel_for(size() * tiles, 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t item = begin; item < end; ++item) {
        const Group group = (*this)[item / tiles];
        const std::size_t row = item % tiles * kTileRows;
        for (std::size_t i = 0; i < group.count; i += RowDots::max_tokens) {
          body(group.slot, row, std::min(kTileRows, rows - row), group.first + i,
               std::min(RowDots::max_tokens, group.count - i));
        }
      }
    });
  }

 private:
  const std::int32_t* groups_;
  const std::int32_t* pairs_;
};

Weights expert_weights(const std::byte* slot, const ExpertMatrix& matrix, std::size_t rows, std::size_t cols) {
  return Weights{slot + matrix.weight, slot + matrix.scales, slot + matrix.biases, rows, cols};
}

void expert_gate_up(const GateUp& kernel, const Arguments& arguments, ThreadTeam& team) {
  const auto& params = arguments.params<ExpertGateUpParams>();
  const std::size_t n_tokens = arguments.step.n_tokens;
  const std::byte* slots = arguments.buffer<std::byte>(0);
  const float* x = arguments.buffer<float>(1);
  const ExpertGroups groups(arguments.buffer<std::int32_t>(2), arguments.buffer<std::int32_t>(3));
  float* out = arguments.buffer<float>(4);

  const std::size_t gate_nbytes = PreparedRows::nbytes(kernel.gate_proj, n_tokens, params.cols);
  const std::size_t up_nbytes = PreparedRows::nbytes(kernel.up_proj, n_tokens, params.cols);
  std::byte* memory = team.scratch(gate_nbytes + (kernel.same_format() ? 0 : up_nbytes));
  const PreparedRows gate_x(kernel.gate_proj, params.cols, memory);
  const PreparedRows up_x(kernel.up_proj, params.cols, kernel.same_format() ? memory : memory + gate_nbytes);
  const auto source = [&](std::size_t t) { return x + t * params.cols; };
  gate_x.prepare(team, n_tokens, source);
  if (!kernel.same_format()) up_x.prepare(team, n_tokens, source);

  groups.for_each_tile(
      team, params.rows,
      [&](std::size_t slot, std::size_t row, std::size_t n_rows, std::size_t first, std::size_t count) {
        const std::byte* expert = slots + slot * params.slot_nbytes;
        TokenBlock tokens{count, {}, {}};
        const std::byte* up_rows[RowDots::max_tokens];
        for (std::size_t i = 0; i < count; ++i) {
          const std::size_t pair = groups.pair(first + i), t = pair / params.top_k;
          tokens.x[i] = gate_x.row(t, source(t));
          tokens.out[i] = out + pair * params.rows + row;
          up_rows[i] = up_x.row(t, source(t));
        }
        kernel.tile(expert_weights(expert, params.gate_proj, params.rows, params.cols),
                    expert_weights(expert, params.up_proj, params.rows, params.cols), row, n_rows, tokens, up_rows);
      });
}

void expert_down(const RowDots& dots, const Arguments& arguments, ThreadTeam& team) {
  const auto& params = arguments.params<ExpertDownParams>();
  const std::byte* slots = arguments.buffer<std::byte>(0);
  const float* x = arguments.buffer<float>(1);
  const ExpertGroups groups(arguments.buffer<std::int32_t>(2), arguments.buffer<std::int32_t>(3));
  float* out = arguments.buffer<float>(4);

  // Only the rows of this dispatch's pairs hold activations: prepared row i belongs to pair number i.
  const std::size_t n_pairs = groups.n_pairs();
  const PreparedRows prepared(dots, params.cols, team.scratch(PreparedRows::nbytes(dots, n_pairs, params.cols)));
  const auto source = [&](std::size_t i) { return x + groups.pair(i) * params.cols; };
  prepared.prepare(team, n_pairs, source);

  groups.for_each_tile(
      team, params.rows,
      [&](std::size_t slot, std::size_t row, std::size_t n_rows, std::size_t first, std::size_t count) {
        const std::byte* expert = slots + slot * params.slot_nbytes;
        TokenBlock tokens{count, {}, {}};
        for (std::size_t i = 0; i < count; ++i) {
          tokens.x[i] = prepared.row(first + i, source(first + i));
          tokens.out[i] = out + groups.pair(first + i) * params.rows + row;
        }
        dots.dot(dots, expert_weights(expert, params.down_proj, params.rows, params.cols), row, n_rows, tokens.x, count,
                 tokens.out);
      });
}

// The outputs of the routed experts and of the shared one, where there is one.
struct ExpertOutputs {
  ExpertOutputs(const Arguments& arguments, std::size_t width, std::size_t top_k, bool shared_expert)
      : width(width),
        top_k(top_k),
        shared_expert(shared_expert),
        h(arguments.buffer<float>(0)),
        expert_out(arguments.buffer<float>(1)),
        weights(arguments.buffer<float>(2)),
        shared(arguments.buffer<float>(3)),
        shared_gate(arguments.buffer<float>(4)) {}

  // Adds those of token t to its row of h, which it returns.
  float* combine(const Functions& functions, std::size_t t) const {
    float* row = h + t * width;
    functions.combine(expert_out + t * top_k * width, weights + t * top_k, top_k,
                      shared_expert ? shared + t * width : nullptr,
                      shared_expert ? 1.0f / (1.0f + std::exp(-shared_gate[t])) : 0.0f, width, row);
    return row;
  }

  std::size_t width;
  std::size_t top_k;
  bool shared_expert;
  float* h;
  const float* expert_out;
  const float* weights;
  const float* shared;
  const float* shared_gate;
};

void moe_combine_norm(const Functions& functions, bool shared_expert, Dtype norm_dtype, const Arguments& arguments,
                      ThreadTeam& team) {
  const auto& params = arguments.params<MoeCombineNormParams>();
  const ExpertOutputs outputs(arguments, params.width, params.top_k, shared_expert);
  const WeightVector weight{arguments.buffer<std::byte>(5), norm_dtype};
  float* out = arguments.buffer<float>(6);
  team.parallel_for(arguments.step.n_tokens, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) {
      functions.rms_norm(outputs.combine(functions, t), weight, params.width, params.epsilon, out + t * params.width);
    }
  });
}

}  // namespace

std::vector<Kernel> moe_kernels() {
  return {
      {"expert_gate_up",
       5,
       sizeof(ExpertGateUpParams),
       {"gate_format", "up_format"},
       [](const Constants& constants, Target target) -> KernelFunction {
         const GateUp kernel{functions(target), row_dots(target, format_constant(constants, "gate_format")),
                             row_dots(target, format_constant(constants, "up_format"))};
         return [=](const Arguments& arguments, ThreadTeam& team) { expert_gate_up(kernel, arguments, team); };
       }},
      {"expert_down",
       5,
       sizeof(ExpertDownParams),
       {"format"},
       [](const Constants& constants, Target target) -> KernelFunction {
         const RowDots dots = row_dots(target, format_constant(constants, "format"));
         return [=](const Arguments& arguments, ThreadTeam& team) { expert_down(dots, arguments, team); };
       }},
      {"moe_combine_norm",
       7,
       sizeof(MoeCombineNormParams),
       {"shared_expert", "norm_dtype"},
       [](const Constants& constants, InstructionSet set) -> KernelFunction {
         const Functions& table = functions(set);
         const bool shared_expert = constant(constants, "shared_expert") != 0;
         const Dtype norm_dtype = dtype_constant(constants, "norm_dtype");
         return [&table, shared_expert, norm_dtype](const Arguments& arguments, ThreadTeam& team) {
           moe_combine_norm(table, shared_expert, norm_dtype, arguments, team);
         };
       }},
  };
}

}  // namespace moeflux::cpu
