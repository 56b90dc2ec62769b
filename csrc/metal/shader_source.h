// The text of the shaders, as the build embeds it.
#pragma once
#include <string_view>
#include <vector>

namespace moeflux::metal {

// One file of shaders/, its includes put in, with line markers that name the files.
struct ShaderSource {
  std::string_view family;
  std::string_view text;
  std::string_view sha256;
  std::vector<std::string_view> functions;
};

const std::vector<ShaderSource>& shader_sources();

}  // namespace moeflux::metal
