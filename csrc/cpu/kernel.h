// What a CPU kernel is: a function of bound buffers, its parameter struct and the step, run by a team of threads.
#pragma once
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "device.h"
#include "params.h"

namespace moeflux::cpu {

// Instruction sets in order of preference; which exist depends on the architecture.
enum class InstructionSet { baseline, avx2, avxvnni, avx512, amx, neon };

// How matrix products of quantised weights hold activations: to float32 precision or in 8 bits.
enum class Activations { float32, int8 };

// What a kernel is specialised for besides its constants.
struct Target {
  Target(InstructionSet instruction_set, Activations activations = Activations::float32)
      : instruction_set(instruction_set), activations(activations) {}
  operator InstructionSet() const { return instruction_set; }

  InstructionSet instruction_set;
  Activations activations;
};

// The threads that run one dispatch together. Results must not depend on how many there are.
class ThreadTeam {
 public:
  virtual ~ThreadTeam() = default;
  virtual unsigned n_threads() const = 0;
  // Calls body(begin, end) over disjoint ranges that cover [0, n_items), each a multiple of `grain` long save the last.
  virtual void parallel_for(std::size_t n_items, std::size_t grain,
                            const std::function<void(std::size_t, std::size_t)>& body) = 0;
  // 64-byte aligned memory shared by the team, valid until the kernel returns; a second call gives the same memory,
  // grown.
  virtual std::byte* scratch(std::size_t nbytes) = 0;
};

// The arguments of one dispatch as a kernel sees them.
struct Arguments {
  std::span<std::byte* const> buffers;
  const std::byte* params_bytes;
  Step step;

  template <typename T>
  T* buffer(std::size_t index) const {
    return reinterpret_cast<T*>(buffers[index]);
  }
  template <typename Params>
  const Params& params() const {
    return *reinterpret_cast<const Params*>(params_bytes);
  }
};

using KernelFunction = std::function<void(const Arguments&, ThreadTeam&)>;

// One row of a kernel family's table; the device finds kernels by name and checks every dispatch against it.
struct Kernel {
  std::string_view name;
  std::size_t n_buffers;
  std::size_t params_nbytes;
  std::vector<std::string_view> constants;
  // Throws DeviceError for constants that it does not support.
  std::function<KernelFunction(const Constants&, Target)> specialise;
};

// One per family file; kernels.cpp joins them.
std::vector<Kernel> embedding_kernels();
std::vector<Kernel> norm_kernels();
std::vector<Kernel> matmul_kernels();
std::vector<Kernel> attention_kernels();
std::vector<Kernel> attention_prepare_kernels();
std::vector<Kernel> gated_delta_net_kernels();
std::vector<Kernel> moe_kernels();
std::vector<Kernel> router_kernels();

// The best instruction set of this processor, and all that it has.
std::vector<InstructionSet> available_instruction_sets();
std::string_view instruction_set_name(InstructionSet set);

}  // namespace moeflux::cpu
