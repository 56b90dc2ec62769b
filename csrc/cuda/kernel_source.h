// The shaders as text that NVRTC compiles, as the build embeds them.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "cuda/compiler.h"

namespace moeflux::cuda {

// One file of shaders/, translated.
struct KernelSource {
  std::string_view family;
  std::string_view text;
  std::vector<std::string_view> functions;
};

const std::vector<KernelSource>& kernel_sources();
// What the texts include.
const std::vector<HeaderText>& kernel_headers();
// What the compiler is told for all of them.
const std::vector<std::string>& kernel_options();
// SHA-256 of all texts, headers and options.
std::string_view kernel_sources_sha256();

}  // namespace moeflux::cuda
