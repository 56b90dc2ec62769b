// Attention over the key/value cache.
#include <algorithm>
#include <vector>

#include "constants.h"
#include "cpu/functions.h"
#include "positions.h"

namespace moeflux::cpu {
namespace {

// Heads of one layer, and the state of those that share a key/value head: what AttentionBlock says of each, in a row.
struct Heads {
  std::size_t n_heads;
  std::size_t n_kv_heads;
  std::size_t head_dim;

  std::size_t per_kv_head() const { return n_heads / n_kv_heads; }
  std::size_t head_state_length() const { return 2 + head_dim; }
  std::size_t state_length() const { return per_kv_head() * head_state_length(); }
};

// States of all splits of the keys of every token and key/value head.
struct Partials {
  float* states;  // [T, Hkv, n_splits, state_length]
  std::uint32_t n_splits;

  float* of(const Heads& heads, std::size_t token, std::size_t kv_head, std::size_t split) const {
    return states + ((token * heads.n_kv_heads + kv_head) * n_splits + split) * heads.state_length();
  }
};

// Where the outputs of heads go, times their output gates if there are any.
struct Outputs {
  const Functions& functions;
  Heads heads;
  const float* output_gates;  // null or q_proj
  std::size_t q_head_stride;
  float* out;

  void finish(std::size_t token, std::size_t head, const float* state) const {
    const std::size_t row = token * heads.n_heads + head, n = heads.head_dim;
    functions.finish_attention(n, state, out + row * n);
    if (output_gates != nullptr) functions.multiply_sigmoid(output_gates + row * q_head_stride + n, n, out + row * n);
  }
};

void merge_splits(const Outputs& outputs, const Partials& partials, Step step, ThreadTeam& team) {
  const Heads& heads = outputs.heads;
  team.parallel_for(step.n_tokens * heads.n_heads, 1, [&](std::size_t begin, std::size_t end) {
    std::vector<float> state(heads.head_state_length());
    for (std::size_t i = begin; i < end; ++i) {
      const std::size_t token = i / heads.n_heads, head = i % heads.n_heads, kv_head = head / heads.per_kv_head();
      const std::size_t n_splits = used_splits(step.position + token + 1, partials.n_splits);
      const float* partial = partials.of(heads, token, kv_head, 0) + head % heads.per_kv_head() * state.size();
      std::copy_n(partial, state.size(), state.data());
      for (std::size_t split = 1; split < n_splits; ++split) {
        outputs.functions.merge_attention(heads.head_dim, partial + split * heads.state_length(), state.data());
      }
      outputs.finish(token, head, state.data());
    }
  });
}

// Queries of some tokens, and the cache. Keys are taken in blocks of AttentionBlock::max_keys from position 0 on.
struct Queries {
  // An item is all query heads of one token that share a key/value head.
  struct Item {
    std::size_t token;
    std::size_t kv_head;
  };

  const Functions& functions;
  Heads heads;
  Step step;
  float scale;
  const float* q;
  const float* keys;
  const float* values;

  std::uint32_t n_keys(Item item) const { return step.position + static_cast<std::uint32_t>(item.token) + 1; }
  std::size_t n_blocks(Item item) const { return (n_keys(item) - 1) / AttentionBlock::max_keys + 1; }

  void attend(Item item, std::size_t block, float* state, bool cached = false) const {
    const std::size_t first = block * AttentionBlock::max_keys, n = heads.head_dim, stride = heads.n_kv_heads * n;
    const std::size_t offset = first * stride + item.kv_head * n;
    const AttentionBlock shape{heads.per_kv_head(), n,
                               std::min<std::size_t>(AttentionBlock::max_keys, n_keys(item) - first), scale, cached};
    const float* queries = q + (item.token * heads.n_heads + item.kv_head * heads.per_kv_head()) * n;
    functions.attend(shape, queries, HeadRows{keys + offset, stride}, HeadRows{values + offset, stride}, state);
  }

  void merge(const float* other, float* state) const {
    const std::size_t n = heads.head_state_length();
    for (std::size_t h = 0; h < heads.per_kv_head(); ++h) {
      functions.merge_attention(heads.head_dim, other + h * n, state + h * n);
    }
  }
};

// The blocks of one split, in ascending order. `next` is memory for a state.
void attend_split(const Queries& queries, Queries::Item item, std::size_t split, const Partials& partials,
                  float* next) {
  static_assert(SPLIT_KEYS % AttentionBlock::max_keys == 0);
  const std::size_t n_blocks = keys_per_split(queries.n_keys(item), partials.n_splits) / AttentionBlock::max_keys;
  const std::size_t first = split * n_blocks, end = std::min(first + n_blocks, queries.n_blocks(item));
  float* state = partials.of(queries.heads, item.token, item.kv_head, split);
  for (std::size_t block = first; block < end; ++block) {
    queries.attend(item, block, block == first ? state : next);
    if (block != first) queries.merge(next, state);
  }
}

void attend_splits(const Queries& queries, const Partials& partials, ThreadTeam& team) {
  const std::size_t n_tokens = queries.step.n_tokens, n_kv_heads = queries.heads.n_kv_heads;
  std::uint32_t most = 0;
  for (std::size_t t = 0; t < n_tokens; ++t) {
    most = std::max(most, used_splits(queries.n_keys({t, 0}), partials.n_splits));
  }
  team.parallel_for(most * n_tokens * n_kv_heads, 1, [&](std::size_t begin, std::size_t end) {
    std::vector<float> next(queries.heads.state_length());
    for (std::size_t i = begin; i < end; ++i) {
      const Queries::Item item{i / n_kv_heads % n_tokens, i % n_kv_heads};
      attend_split(queries, item, i / (n_kv_heads * n_tokens), partials, next.data());
    }
  });
}

// `count` tokens from an item on attend to a block of keys in turn; `states` has one for each, and one more.
void attend_tile(const Queries& queries, const Outputs& outputs, Queries::Item first, std::size_t count,
                 float* states) {
  const Heads& heads = queries.heads;
  const auto token = [&](std::size_t t) { return Queries::Item{first.token + t, first.kv_head}; };
  float* next = states + count * heads.state_length();
  for (std::size_t block = 0; block < queries.n_blocks(token(count - 1)); ++block) {
    for (std::size_t t = 0; t < count; ++t) {
      if (block >= queries.n_blocks(token(t))) continue;
      float* state = states + t * heads.state_length();
      queries.attend(token(t), block, block == 0 ? state : next, t != 0);
      if (block != 0) queries.merge(next, state);
    }
  }
  for (std::size_t i = 0; i < count * heads.per_kv_head(); ++i) {
    const std::size_t head = first.kv_head * heads.per_kv_head() + i % heads.per_kv_head();
    outputs.finish(first.token + i / heads.per_kv_head(), head, states + i * heads.head_state_length());
  }
}

// Tokens of a tile, where there are enough for all threads: results do not depend on it.
constexpr std::size_t kTileTokens = 16, kTilesPerThread = 4;

// All tokens of a tile attend to a block of keys while it is in a near cache. Where tokens are too few for all threads,
// these share the blocks of each.
void attend_tokens(const Queries& queries, const Outputs& outputs, ThreadTeam& team) {
  const std::size_t n_tokens = queries.step.n_tokens, n_kv_heads = queries.heads.n_kv_heads;
  const std::size_t n_items = n_tokens * n_kv_heads, state_length = queries.heads.state_length();
  if (n_items == 0) return;
  if (n_items < 2 * std::size_t{team.n_threads()}) {
    const auto most_blocks = static_cast<std::uint32_t>(queries.n_blocks({n_tokens - 1, 0}));
    std::byte* states = team.scratch(n_items * most_blocks * state_length * sizeof(float));
    const Partials partials{reinterpret_cast<float*>(states), most_blocks};
    attend_splits(queries, partials, team);
    merge_splits(outputs, partials, queries.step, team);
    return;
  }
  const std::size_t of_thread = n_items / (kTilesPerThread * team.n_threads());
  const std::size_t tile = std::clamp<std::size_t>(of_thread, 1, kTileTokens), n_tiles = (n_tokens - 1) / tile + 1;
  team.parallel_for(n_tiles * n_kv_heads, 1, [&](std::size_t begin, std::size_t end) {
    std::vector<float> states((tile + 1) * state_length);
    for (std::size_t i = begin; i < end; ++i) {
      const std::size_t first = i % n_tiles * tile;
      attend_tile(queries, outputs, {first, i / n_tiles}, std::min(tile, n_tokens - first), states.data());
    }
  });
}

template <typename Params>
Queries queries_of(const Functions& functions, const Arguments& arguments) {
  const auto& params = arguments.params<Params>();
  check_context(arguments.step, params.context);
  return {functions,
          {params.n_heads, params.n_kv_heads, params.head_dim},
          arguments.step,
          params.scale,
          arguments.buffer<float>(0),
          arguments.buffer<float>(1),
          arguments.buffer<float>(2)};
}

// q_proj and out bind at `first` and behind it.
template <typename Params>
Outputs outputs_of(const Functions& functions, bool output_gate, const Arguments& arguments, std::size_t first) {
  const auto& params = arguments.params<Params>();
  return {functions,
          {params.n_heads, params.n_kv_heads, params.head_dim},
          output_gate ? arguments.buffer<float>(first) : nullptr,
          params.q_head_stride,
          arguments.buffer<float>(first + 1)};
}

void attention(const Functions& functions, bool output_gate, const Arguments& arguments, ThreadTeam& team) {
  const Queries queries = queries_of<AttentionParams>(functions, arguments);
  attend_tokens(queries, outputs_of<AttentionParams>(functions, output_gate, arguments, 3), team);
}

void attention_decode(const Functions& functions, const Arguments& arguments, ThreadTeam& team) {
  const std::uint32_t n_splits = arguments.params<AttentionDecodeParams>().n_splits;
  attend_splits(queries_of<AttentionDecodeParams>(functions, arguments), Partials{arguments.buffer<float>(3), n_splits},
                team);
}

void attention_merge(const Functions& functions, bool output_gate, const Arguments& arguments, ThreadTeam& team) {
  const std::uint32_t n_splits = arguments.params<AttentionMergeParams>().n_splits;
  merge_splits(outputs_of<AttentionMergeParams>(functions, output_gate, arguments, 1),
               Partials{arguments.buffer<float>(0), n_splits}, arguments.step, team);
}

}  // namespace

std::vector<Kernel> attention_kernels() {
  return {
      {"attention",
       5,
       sizeof(AttentionParams),
       {"output_gate"},
       [](const Constants& constants, InstructionSet set) -> KernelFunction {
         const Functions& table = functions(set);
         const bool output_gate = constant(constants, "output_gate") != 0;
         return [&table, output_gate](const Arguments& arguments, ThreadTeam& team) {
           attention(table, output_gate, arguments, team);
         };
       }},
      {"attention_decode",
       4,
       sizeof(AttentionDecodeParams),
       {},
       [](const Constants&, InstructionSet set) -> KernelFunction {
         const Functions& table = functions(set);
         return [&table](const Arguments& arguments, ThreadTeam& team) { attention_decode(table, arguments, team); };
       }},
      {"attention_merge",
       3,
       sizeof(AttentionMergeParams),
       {"output_gate"},
       [](const Constants& constants, InstructionSet set) -> KernelFunction {
         const Functions& table = functions(set);
         const bool output_gate = constant(constants, "output_gate") != 0;
         return [&table, output_gate](const Arguments& arguments, ThreadTeam& team) {
           attention_merge(table, output_gate, arguments, team);
         };
       }},
  };
}

}  // namespace moeflux::cpu
