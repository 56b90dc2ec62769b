// Kernels against scalar loops in double, with every instruction set of this machine. Buffers are exactly as large as
// the kernels may read or write, so that the address sanitizer sees a step beyond.
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "check.h"
#include "cpu/kernels.h"
#include "cpu/thread_pool.h"
#include "error.h"

using namespace moeflux;
using namespace moeflux::cpu;

namespace {

using Bytes = std::vector<std::byte>;
using Floats = std::vector<float>;

constexpr std::uint32_t format(std::uint32_t bits, std::uint32_t group_size, Dtype dtype) {
  return bits | group_size << 8 | static_cast<std::uint32_t>(dtype) << 24;
}

std::vector<std::uint32_t> affine_formats() {
  std::vector<std::uint32_t> formats;
  for (const std::uint32_t bits : {2, 3, 4, 5, 6, 8}) {
    for (const std::uint32_t group_size : {32, 64, 128}) formats.push_back(format(bits, group_size, BFLOAT16));
  }
  return formats;
}

Floats random_floats(std::size_t n, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> distribution(-1.0f, 1.0f);
  Floats values(n);
  for (float& value : values) value = distribution(generator);
  return values;
}

Bytes random_bytes(std::size_t n, unsigned seed) {
  std::mt19937 generator(seed);
  Bytes bytes(n);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(generator());
  return bytes;
}

// The upper halves of floats: bfloat16 cut off.
Bytes as_bfloat16(Floats& values) {
  Bytes bytes(2 * values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, &values[i], sizeof bits);
    const auto upper = static_cast<std::uint16_t>(bits >> 16);
    std::memcpy(bytes.data() + 2 * i, &upper, sizeof upper);
    bits &= 0xffff0000;
    std::memcpy(&values[i], &bits, sizeof bits);
  }
  return bytes;
}

std::vector<double> codes_of(const Bytes& weight, std::size_t bits) {
  std::vector<double> codes;
  for (std::size_t i = 0; i < weight.size() * 8 / bits; ++i) {
    unsigned code = 0;
    for (std::size_t place = i * bits; place < (i + 1) * bits; ++place) {
      code |= (std::to_integer<unsigned>(weight[place / 8]) >> place % 8 & 1) << (place - i * bits);
    }
    codes.push_back(code);
  }
  return codes;
}

// A matrix [rows, cols] as kernels bind it, and what it means.
struct Matrix {
  Bytes weight, scales, biases;
  std::vector<double> dense;

  Matrix(std::size_t rows, std::size_t cols, std::uint32_t format, unsigned seed) : dense(rows * cols) {
    const std::size_t bits = format & 0xff, group_size = format >> 8 & 0xffff;
    if (bits == 0) {
      Floats values = random_floats(rows * cols, seed);
      weight = as_bfloat16(values);
      dense.assign(values.begin(), values.end());
      return;
    }
    weight = random_bytes(rows * cols * bits / 8, seed);
    Floats scale = random_floats(rows * cols / group_size, seed + 1), bias = random_floats(scale.size(), seed + 2);
    scales = as_bfloat16(scale);
    biases = as_bfloat16(bias);
    dense = codes_of(weight, bits);
    for (std::size_t i = 0; i < dense.size(); ++i) dense[i] = dense[i] * scale[i / group_size] + bias[i / group_size];
  }
};

// Runs one kernel on three threads.
void run(Target target, std::string_view name, const Constants& constants, const void* params, std::size_t nbytes,
         std::vector<std::byte*> buffers, Step step) {
  for (const Kernel& kernel : all_kernels()) {
    if (kernel.name != name) continue;
    CHECK_EQUAL(kernel.params_nbytes, nbytes);
    CHECK_EQUAL(kernel.n_buffers, buffers.size());
    ThreadPool threads(3);
    kernel.specialise(constants, target)(Arguments{buffers, static_cast<const std::byte*>(params), step}, threads);
    return;
  }
  throw std::logic_error("no kernel " + std::string(name));
}

std::byte* bytes_of(Floats& values) { return reinterpret_cast<std::byte*>(values.data()); }

void check_close(const Floats& got, const std::vector<double>& wanted) {
  CHECK_EQUAL(got.size(), wanted.size());
  double largest = 0;
  for (const double value : wanted) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < got.size(); ++i) CHECK(std::abs(got[i] - wanted[i]) <= 1e-5 * largest);
}

std::vector<double> product(const Matrix& matrix, std::size_t rows, std::size_t cols, const Floats& x) {
  std::vector<double> out;
  for (std::size_t t = 0; t < x.size() / cols; ++t) {
    for (std::size_t r = 0; r < rows; ++r) {
      double sum = 0;
      for (std::size_t c = 0; c < cols; ++c) sum += matrix.dense[r * cols + c] * x[t * cols + c];
      out.push_back(sum);
    }
  }
  return out;
}

// Every group rounded to 127ths of its largest magnitude.
Floats in_8_bits(Floats x, std::size_t group_size) {
  for (std::size_t first = 0; first < x.size(); first += group_size) {
    double largest = 0;
    for (std::size_t i = first; i < first + group_size; ++i) largest = std::max<double>(largest, std::abs(x[i]));
    for (std::size_t i = first; i < first + group_size; ++i) {
      x[i] = static_cast<float>(std::nearbyint(x[i] * 127 / largest) * largest / 127);
    }
  }
  return x;
}

void check_matmul(Target target, std::uint32_t format, std::size_t rows, std::size_t cols, std::uint32_t n_tokens) {
  Matrix matrix(rows, cols, format, 1);
  Floats x = random_floats(n_tokens * cols, 2), out(n_tokens * rows);
  const MatmulParams params{static_cast<uint32>(rows), static_cast<uint32>(cols), static_cast<uint32>(cols),
                            static_cast<uint32>(rows)};
  run(target, "matmul", {{"format", format}, {"accumulate", 0}}, &params, sizeof params,
      {matrix.weight.data(), matrix.scales.data(), matrix.biases.data(), bytes_of(x), bytes_of(out)},
      Step{0, n_tokens, 0});
  if (target.activations == Activations::int8) x = in_8_bits(x, format >> 8 & 0xffff);
  check_close(out, product(matrix, rows, cols, x));
}

double silu(double x) { return x / (1 + std::exp(-x)); }

}  // namespace

TEST(matmul_of_every_affine_format) {
  for (const InstructionSet set : available_instruction_sets()) {
    for (const Activations activations : {Activations::float32, Activations::int8}) {
      for (const std::uint32_t format : affine_formats()) {
        for (const std::size_t n_groups : {1, 2, 3, 17}) {
          const std::size_t cols = n_groups * (format >> 8 & 0xffff);
          check_matmul(Target(set, activations), format, 7, cols, 1);
          check_matmul(Target(set, activations), format, 5, cols, 11);
        }
      }
    }
  }
}

// Codes and activations of every extreme, so that no sum may saturate or wrap: with scales of 1 and biases of 0 every
// result is an integer that float32 holds. Tokens and rows alone give what they give together.
TEST(sums_of_8_bit_activations_are_exact) {
  constexpr std::size_t rows = 9, n_tokens = 7, n_groups = 3;
  for (const InstructionSet set : available_instruction_sets()) {
    for (const std::uint32_t format : affine_formats()) {
      const std::size_t group_size = format >> 8 & 0xffff, cols = n_groups * group_size;
      Matrix matrix(rows, cols, format, 14);
      std::fill(matrix.weight.begin() + matrix.weight.size() / 3, matrix.weight.end(), std::byte{0xff});
      Floats ones(rows * n_groups, 1.0f), zeros(rows * n_groups);
      matrix.scales = as_bfloat16(ones);
      matrix.biases = as_bfloat16(zeros);
      matrix.dense = codes_of(matrix.weight, format & 0xff);
      Floats x(n_tokens * cols), out(n_tokens * rows), single(1);
      std::mt19937 generator(15);
      for (std::size_t i = 0; i < x.size(); ++i) {
        x[i] = i / cols % 3 == 0 ? 127.0f : i / cols % 3 == 1 ? -127.0f : static_cast<float>(generator() % 255) - 127;
      }
      for (std::size_t i = 0; i < x.size(); i += group_size) x[i] = 127;
      const std::vector<double> wanted = product(matrix, rows, cols, x);
      const auto matmul = [&](std::size_t row, std::size_t n_rows, std::size_t t, std::uint32_t tokens,
                              Floats& result) {
        const MatmulParams params{static_cast<uint32>(n_rows), static_cast<uint32>(cols), static_cast<uint32>(cols),
                                  static_cast<uint32>(n_rows)};
        run(Target(set, Activations::int8), "matmul", {{"format", format}, {"accumulate", 0}}, &params, sizeof params,
            {matrix.weight.data() + row * matrix.weight.size() / rows,
             matrix.scales.data() + row * matrix.scales.size() / rows,
             matrix.biases.data() + row * matrix.biases.size() / rows, bytes_of(x) + t * cols * sizeof(float),
             bytes_of(result)},
            Step{0, tokens, 0});
      };
      matmul(0, rows, 0, n_tokens, out);
      for (std::size_t i = 0; i < out.size(); ++i) {
        CHECK_EQUAL(out[i], wanted[i]);
        matmul(i % rows, 1, i / rows, 1, single);
        CHECK_EQUAL(single[0], out[i]);
      }
    }
  }
}

TEST(matmul_of_unquantised_rows_of_any_length) {
  for (const InstructionSet set : available_instruction_sets()) {
    for (const std::size_t cols : {1, 15, 16, 17, 64, 131}) check_matmul(set, format(0, 0, BFLOAT16), 9, cols, 5);
  }
}

TEST(embedding_of_every_affine_format) {
  for (const InstructionSet set : available_instruction_sets()) {
    for (const std::uint32_t format : affine_formats()) {
      const std::size_t width = 3 * (format >> 8 & 0xffff);
      Matrix table(4, width, format, 3);
      std::vector<std::int32_t> tokens{3, 0};
      Floats out(2 * width);
      const EmbeddingParams params{static_cast<uint32>(width), 4};
      run(set, "embedding", {{"format", format}}, &params, sizeof params,
          {table.weight.data(), table.scales.data(), table.biases.data(), reinterpret_cast<std::byte*>(tokens.data()),
           bytes_of(out)},
          Step{0, 2, 0});
      std::vector<double> wanted(table.dense.begin() + 3 * width, table.dense.end());
      wanted.insert(wanted.end(), table.dense.begin(), table.dense.begin() + width);
      check_close(out, wanted);
    }
  }
}

TEST(expert_gate_up_reads_the_slot_of_each_group) {
  constexpr std::size_t rows = 33, cols = 96;
  const std::uint32_t form = format(4, 32, BFLOAT16);
  for (const InstructionSet set : available_instruction_sets()) {
    Matrix gate_proj(2 * rows, cols, form, 4), up_proj(2 * rows, cols, form, 5);
    // Slot 0 and slot 1, each: gate_proj weight, scales, biases, then up_proj's.
    Bytes slots;
    ExpertGateUpParams params{0, rows, cols, 1, {}, {}, 0};
    const auto append = [&](const Bytes& both, std::size_t slot) {
      const auto offset = static_cast<uint32>(slots.size() - slot * params.slot_nbytes);
      slots.insert(slots.end(), both.begin() + slot * both.size() / 2, both.begin() + (slot + 1) * both.size() / 2);
      return offset;
    };
    for (const std::size_t slot : {0, 1}) {
      params.gate_proj = {append(gate_proj.weight, slot), append(gate_proj.scales, slot),
                          append(gate_proj.biases, slot)};
      params.up_proj = {append(up_proj.weight, slot), append(up_proj.scales, slot), append(up_proj.biases, slot)};
      if (slot == 0) params.slot_nbytes = slots.size();
    }
    Floats x = random_floats(2 * cols, 6), out(2 * rows);
    std::vector<std::int32_t> groups{2, 1, 0, 1, 0, 1, 1}, pairs{0, 1};  // token 0 goes to slot 1, token 1 to slot 0
    run(set, "expert_gate_up", {{"gate_format", form}, {"up_format", form}}, &params, sizeof params,
        {slots.data(), bytes_of(x), reinterpret_cast<std::byte*>(groups.data()),
         reinterpret_cast<std::byte*>(pairs.data()), bytes_of(out)},
        Step{0, 2, 0});
    const std::vector<double> gate = product(gate_proj, 2 * rows, cols, x), up = product(up_proj, 2 * rows, cols, x);
    std::vector<double> wanted;
    for (const std::size_t t : {0, 1}) {
      for (std::size_t r = 0; r < rows; ++r) {
        const std::size_t i = t * 2 * rows + (1 - t) * rows + r;
        wanted.push_back(silu(gate[i]) * up[i]);
      }
    }
    check_close(out, wanted);
  }
}

TEST(attention_over_several_blocks_of_keys) {
  constexpr std::size_t heads = 3, dim = 20, n_keys = 300, n_splits = 2;
  const Step step{n_keys - 1, 1, 0};
  for (const InstructionSet set : available_instruction_sets()) {
    Floats q = random_floats(heads * dim, 7), k = random_floats(n_keys * dim, 8), v = random_floats(n_keys * dim, 9);
    std::vector<double> wanted(heads * dim);
    for (std::size_t h = 0; h < heads; ++h) {
      double sum = 0;
      for (std::size_t i = 0; i < n_keys; ++i) {
        double score = 0;
        for (std::size_t d = 0; d < dim; ++d) score += double{q[h * dim + d]} * k[i * dim + d];
        const double weight = std::exp(score * 0.25);
        sum += weight;
        for (std::size_t d = 0; d < dim; ++d) wanted[h * dim + d] += weight * v[i * dim + d];
      }
      for (std::size_t d = 0; d < dim; ++d) wanted[h * dim + d] /= sum;
    }
    Floats out(heads * dim), partials(n_splits * heads * (2 + dim)), merged(heads * dim);
    const AttentionParams params{heads, 1, dim, dim, n_keys, 0.25f};
    run(set, "attention", {{"output_gate", 0}}, &params, sizeof params,
        {bytes_of(q), bytes_of(k), bytes_of(v), bytes_of(q), bytes_of(out)}, step);
    check_close(out, wanted);
    const AttentionDecodeParams decode{heads, 1, dim, n_keys, n_splits, 0.25f};
    run(set, "attention_decode", {}, &decode, sizeof decode,
        {bytes_of(q), bytes_of(k), bytes_of(v), bytes_of(partials)}, step);
    const AttentionMergeParams merge{heads, 1, dim, dim, n_splits};
    run(set, "attention_merge", {{"output_gate", 0}}, &merge, sizeof merge,
        {bytes_of(partials), bytes_of(q), bytes_of(merged)}, step);
    check_close(merged, wanted);
  }
}

TEST(gated_delta_net_of_one_head) {
  constexpr std::size_t key_dim = 9, value_dim = 6, n_tokens = 5, width = 2 * key_dim + value_dim;
  for (const InstructionSet set : available_instruction_sets()) {
    Floats qkv = random_floats(n_tokens * width, 10), decay = random_floats(n_tokens, 11);
    Floats beta = random_floats(n_tokens, 12), state = random_floats(value_dim * key_dim, 13);
    Floats out(n_tokens * value_dim);
    std::vector<double> wanted_state(state.begin(), state.end()), wanted;
    for (std::size_t t = 0; t < n_tokens; ++t) {
      const float *q = &qkv[t * width], *k = q + key_dim, *v = k + key_dim;
      double q_square = 1e-6, k_square = 1e-6;
      for (std::size_t i = 0; i < key_dim; ++i) {
        q_square += double{q[i]} * q[i];
        k_square += double{k[i]} * k[i];
      }
      for (std::size_t j = 0; j < value_dim; ++j) {
        double* row = &wanted_state[j * key_dim];
        double known = 0, sum = 0;
        for (std::size_t i = 0; i < key_dim; ++i) known += (row[i] *= decay[t]) * k[i] / std::sqrt(k_square);
        for (std::size_t i = 0; i < key_dim; ++i) {
          row[i] += beta[t] * (v[j] - known) * k[i] / std::sqrt(k_square);
          sum += row[i] * q[i] / std::sqrt(q_square * key_dim);
        }
        wanted.push_back(sum);
      }
    }
    const GatedDeltaNetParams params{1, 1, key_dim, value_dim, 1e-6f};
    run(set, "gated_delta_net", {}, &params, sizeof params,
        {bytes_of(qkv), bytes_of(decay), bytes_of(beta), bytes_of(state), bytes_of(out)}, Step{0, n_tokens, 0});
    check_close(out, wanted);
    check_close(state, wanted_state);
  }
}

TEST(unknown_formats_are_refused) {
  for (const Kernel& kernel : all_kernels()) {
    if (kernel.name != "embedding") continue;
    for (const std::uint32_t bad : {format(7, 64, FLOAT32), format(4, 48, FLOAT32), 3u << 24, format(0, 64, FLOAT32)}) {
      const std::string message =
          CHECK_THROWS(DeviceError, kernel.specialise({{"format", bad}}, InstructionSet::baseline));
      CHECK(message.find("2, 3, 4, 5, 6 or 8 bits") != std::string::npos);
    }
  }
}

TEST_MAIN
