// Norm and rotary embedding of queries and keys, and attention over the key/value cache.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "constants.h"
#include "cpu/functions.h"

namespace moeflux::cpu {
namespace {

void check_context(const Step& step, std::uint32_t context) {
  if (std::uint64_t{step.position} + step.n_tokens <= context) return;
  throw DeviceError(std::to_string(step.n_tokens) + " tokens at position " + std::to_string(step.position) +
                    " exceed the key/value cache of " + std::to_string(context) + " positions");
}

// Cosines and sines of one position.
struct Rotation {
  Rotation(const std::byte* frequencies, std::size_t n, std::uint32_t position) : cosines(n), sines(n) {
    for (std::size_t i = 0; i < n; ++i) {
      float frequency;
      std::memcpy(&frequency, frequencies + i * sizeof frequency, sizeof frequency);
      const float angle = static_cast<float>(position) * frequency;
      cosines[i] = std::cos(angle);
      sines[i] = std::sin(angle);
    }
  }

  // Rotates the pairs (i, i + n) of a head.
  void apply(float* head) const {
    const std::size_t n = cosines.size();
    for (std::size_t i = 0; i < n; ++i) {
      const float a = head[i], b = head[i + n];
      head[i] = a * cosines[i] - b * sines[i];
      head[i + n] = b * cosines[i] + a * sines[i];
    }
  }

  std::vector<float> cosines;
  std::vector<float> sines;
};

void attention_prepare(const Functions& functions, Dtype norm_dtype, const Arguments& arguments, ThreadTeam& team) {
  const auto& params = arguments.params<AttentionPrepareParams>();
  const Step step = arguments.step;
  check_context(step, params.context);
  const float* q_proj = arguments.buffer<float>(0);
  const float* k_proj = arguments.buffer<float>(1);
  const float* v_proj = arguments.buffer<float>(2);
  const WeightVector q_norm{arguments.buffer<std::byte>(3), norm_dtype};
  const WeightVector k_norm{arguments.buffer<std::byte>(4), norm_dtype};
  const std::size_t n = params.head_dim, kv_width = std::size_t{params.n_kv_heads} * n;

  team.parallel_for(step.n_tokens, 1, [&](std::size_t begin, std::size_t end) {
    for (std::size_t t = begin; t < end; ++t) {
      const std::size_t position = step.position + t;
      const Rotation rotation(arguments.buffer<std::byte>(5), params.rope_dim / 2, step.position + t);
      float* q = arguments.buffer<float>(6) + t * params.n_heads * n;
      const float* q_heads = q_proj + t * params.n_heads * params.q_head_stride;
      for (std::size_t h = 0; h < params.n_heads; ++h) {
        functions.rms_norm(q_heads + h * params.q_head_stride, q_norm, n, params.epsilon, q + h * n);
        rotation.apply(q + h * n);
      }
      float* k = arguments.buffer<float>(7) + position * kv_width;
      for (std::size_t h = 0; h < params.n_kv_heads; ++h) {
        functions.rms_norm(k_proj + t * kv_width + h * n, k_norm, n, params.epsilon, k + h * n);
        rotation.apply(k + h * n);
      }
      std::copy_n(v_proj + t * kv_width, kv_width, arguments.buffer<float>(8) + position * kv_width);
    }
  });
}

// Tokens that attend to a block of keys in turn, where there are enough for all threads: results do not depend on it.
constexpr std::size_t kTileTokens = 16, kTilesPerThread = 4;

// One dispatch of attention. Keys are taken in blocks of AttentionBlock::max_keys from position 0 on and merged in
// ascending order, whether one thread does all blocks of a token or several threads share them.
class Attention {
 public:
  Attention(const Functions& functions, bool output_gate, const Arguments& arguments)
      : functions_(functions),
        params_(arguments.params<AttentionParams>()),
        step_(arguments.step),
        q_(arguments.buffer<float>(0)),
        keys_(arguments.buffer<float>(1)),
        values_(arguments.buffer<float>(2)),
        output_gates_(output_gate ? arguments.buffer<float>(3) : nullptr),
        out_(arguments.buffer<float>(4)),
        heads_per_kv_head_(params_.n_heads / params_.n_kv_heads),
        state_length_(heads_per_kv_head_ * (2 + std::size_t{params_.head_dim})) {}

  void run(ThreadTeam& team) const {
    const std::size_t n_items = std::size_t{step_.n_tokens} * params_.n_kv_heads;
    if (n_items < 2 * std::size_t{team.n_threads()}) {
      run_blocks_in_parallel(team, n_items);
    } else {
      const std::size_t of_thread = n_items / (kTilesPerThread * team.n_threads());
      run_tiles_in_parallel(team, std::clamp<std::size_t>(of_thread, 1, kTileTokens));
    }
  }

 private:
  // An item is all query heads of one token that share a key/value head.
  struct Item {
    std::size_t token;
    std::size_t kv_head;
  };
  Item item(std::size_t i) const { return {i % step_.n_tokens, i / step_.n_tokens}; }
  std::size_t n_keys(Item item) const { return step_.position + item.token + 1; }
  std::size_t n_blocks(Item item) const { return (n_keys(item) - 1) / AttentionBlock::max_keys + 1; }

  void attend(Item item, std::size_t block, float* state, bool cached = false) const {
    const std::size_t first = block * AttentionBlock::max_keys, n = params_.head_dim, stride = params_.n_kv_heads * n;
    const std::size_t offset = first * stride + item.kv_head * n;
    const AttentionBlock shape{heads_per_kv_head_, n, std::min(AttentionBlock::max_keys, n_keys(item) - first),
                               params_.scale, cached};
    const float* q = q_ + (item.token * params_.n_heads + item.kv_head * heads_per_kv_head_) * n;
    functions_.attend(shape, q, HeadRows{keys_ + offset, stride}, HeadRows{values_ + offset, stride}, state);
  }

  void merge(const float* other, float* state) const {
    const std::size_t n = 2 + std::size_t{params_.head_dim};
    for (std::size_t h = 0; h < heads_per_kv_head_; ++h) {
      functions_.merge_attention(params_.head_dim, other + h * n, state + h * n);
    }
  }

  void finish(Item item, const float* state) const {
    const std::size_t n = params_.head_dim;
    for (std::size_t h = 0; h < heads_per_kv_head_; ++h) {
      const std::size_t head = item.token * params_.n_heads + item.kv_head * heads_per_kv_head_ + h;
      functions_.finish_attention(n, state + h * (2 + n), out_ + head * n);
      if (output_gates_ == nullptr) continue;
      functions_.multiply_sigmoid(output_gates_ + head * params_.q_head_stride + n, n, out_ + head * n);
    }
  }

  // All tokens of a tile attend to a block of keys while it is in a near cache.
  void run_tiles_in_parallel(ThreadTeam& team, std::size_t tile_tokens) const {
    const std::size_t n_tiles = (step_.n_tokens - 1) / tile_tokens + 1;
    team.parallel_for(n_tiles * params_.n_kv_heads, 1, [&](std::size_t begin, std::size_t end) {
      std::vector<float> states((tile_tokens + 1) * state_length_);
      for (std::size_t i = begin; i < end; ++i) {
        const std::size_t first = i % n_tiles * tile_tokens;
        run_tile(Item{first, i / n_tiles}, std::min<std::size_t>(tile_tokens, step_.n_tokens - first), states.data());
      }
    });
  }

  // `count` tokens from an item on; `states` has one for each, and one more.
  void run_tile(Item first, std::size_t count, float* states) const {
    const auto token = [&](std::size_t t) { return Item{first.token + t, first.kv_head}; };
    float* next = states + count * state_length_;
    for (std::size_t block = 0; block < n_blocks(token(count - 1)); ++block) {
      for (std::size_t t = 0; t < count; ++t) {
        if (block >= n_blocks(token(t))) continue;
        float* state = states + t * state_length_;
        attend(token(t), block, block == 0 ? state : next, t != 0);
        if (block != 0) merge(next, state);
      }
    }
    for (std::size_t t = 0; t < count; ++t) finish(token(t), states + t * state_length_);
  }

  void run_blocks_in_parallel(ThreadTeam& team, std::size_t n_items) const {
    if (n_items == 0) return;
    const std::size_t most_blocks = n_blocks(item(n_items - 1));
    float* states = reinterpret_cast<float*>(team.scratch(n_items * most_blocks * state_length_ * sizeof(float)));
    team.parallel_for(n_items * most_blocks, 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) {
        const Item it = item(i % n_items);
        const std::size_t block = i / n_items;
        if (block < n_blocks(it)) attend(it, block, states + (i % n_items * most_blocks + block) * state_length_);
      }
    });
    team.parallel_for(n_items, 1, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) {
        float* state = states + i * most_blocks * state_length_;
        for (std::size_t block = 1; block < n_blocks(item(i)); ++block) merge(state + block * state_length_, state);
        finish(item(i), state);
      }
    });
  }

  const Functions& functions_;
  const AttentionParams& params_;
  Step step_;
  const float* q_;
  const float* keys_;
  const float* values_;
  const float* output_gates_;
  float* out_;
  std::size_t heads_per_kv_head_;
  std::size_t state_length_;
};

}  // namespace

std::vector<Kernel> attention_kernels() {
  return {
      {"attention_prepare",
       9,
       sizeof(AttentionPrepareParams),
       {"norm_dtype"},
       [](const Constants& constants, InstructionSet set) -> KernelFunction {
         const Functions& table = functions(set);
         const Dtype dtype = dtype_constant(constants, "norm_dtype");
         return [&table, dtype](const Arguments& arguments, ThreadTeam& team) {
           attention_prepare(table, dtype, arguments, team);
         };
       }},
      {"attention",
       5,
       sizeof(AttentionParams),
       {"output_gate"},
       [](const Constants& constants, InstructionSet set) -> KernelFunction {
         const Functions& table = functions(set);
         const bool output_gate = constant(constants, "output_gate") != 0;
         return [&table, output_gate](const Arguments& arguments, ThreadTeam& team) {
           check_context(arguments.step, arguments.params<AttentionParams>().context);
           Attention(table, output_gate, arguments).run(team);
         };
       }},
  };
}

}  // namespace moeflux::cpu
