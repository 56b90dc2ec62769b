// From an address in this shared object's code to the shader's file and line.
#pragma once

#include <cstdint>
#include <string>

namespace msl {

// Whether the address is part of this shared object, e.g. of a constant table of the shader.
bool is_in_library(const void* address);

// Fits 32 bits for any shader.
std::uint32_t library_offset(const void* code);

// "file:line" of the call that returns to the offset; asks llvm-symbolizer, without it the offset itself.
std::string shader_line(std::uint32_t offset);

}  // namespace msl
