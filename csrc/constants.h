// Reads the function constants of a kernel and refuses values that no kernel supports.
#pragma once
#include <cstdint>
#include <string>

#include "device.h"
#include "error.h"
#include "params.h"

namespace moeflux {

inline std::uint32_t constant(const Constants& constants, const std::string& name) {
  const auto found = constants.find(name);
  if (found == constants.end()) throw DeviceError("function constant " + name + " is missing");
  return found->second;
}

inline Dtype dtype_constant(const Constants& constants, const std::string& name) {
  const std::uint32_t value = constant(constants, name);
  if (value > BFLOAT16) throw DeviceError(name + " must be a Dtype 0 to 2, got " + std::to_string(value));
  return static_cast<Dtype>(value);
}

// A matrix format as params.h packs it.
inline std::uint32_t format_constant(const Constants& constants, const std::string& name) {
  const std::uint32_t format = constant(constants, name);
  const std::uint32_t bits = format_bits(format), group_size = format_group_size(format);
  const bool unquantised = bits == 0 && group_size == 0;
  const bool affine =
      ((bits >= 2 && bits <= 6) || bits == 8) && (group_size == 32 || group_size == 64 || group_size == 128);
  if (format_dtype(format) <= BFLOAT16 && (unquantised || affine)) return format;
  throw DeviceError(name + " asks for " + std::to_string(bits) + " bits in groups of " + std::to_string(group_size) +
                    " with dtype " + std::to_string(format_dtype(format)) +
                    "; 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128, or no quantisation, are supported");
}

}  // namespace moeflux
