// The shaders as text that NVRTC compiles, as the build embeds them.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "cuda/compiler.h"

namespace moeflux::cuda {

// `access` has a letter for each buffer: 'r' if the function only reads it, 'w' if it may write it.
struct KernelFunction {
  std::string_view name;
  std::string_view access;
  bool takes_step;

  bool only_reads(std::size_t buffer) const { return buffer < access.size() && access[buffer] == 'r'; }
};

// One file of shaders/, translated.
struct KernelSource {
  std::string_view family;
  std::string_view text;
  std::vector<KernelFunction> functions;
};

const std::vector<KernelSource>& kernel_sources();
// What the texts include.
const std::vector<HeaderText>& kernel_headers();
// What the compiler is told for all of them.
const std::vector<std::string>& kernel_options();
// SHA-256 of all texts, headers and options.
std::string_view kernel_sources_sha256();

}  // namespace moeflux::cuda
