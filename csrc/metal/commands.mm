#include "metal/commands.h"

#include <string>
#include <utility>

#include "error.h"

namespace moeflux::metal {
namespace {

// What Metal's blits want of offsets and sizes on macOS.
constexpr std::size_t kBlitAlignment = 4;

}  // namespace

BoundBuffer MetalBackend::bound(const Buffer& buffer) {
  auto allocation = std::dynamic_pointer_cast<MetalAllocation>(buffer.allocation);
  if (!allocation) throw DeviceError("the metal device cannot address a buffer of another device");
  return {std::move(allocation), buffer.offset};
}

void MetalBackend::check_transfer(const char* what, const Buffer& buffer) {
  if (buffer.offset % kBlitAlignment == 0 && buffer.nbytes % kBlitAlignment == 0) return;
  throw DeviceError(std::string(what) + " needs offsets and sizes in multiples of " + std::to_string(kBlitAlignment) +
                    " bytes, got " + std::to_string(buffer.nbytes) + " bytes at offset " +
                    std::to_string(buffer.offset));
}

}  // namespace moeflux::metal
