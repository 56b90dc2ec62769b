// Arithmetic of buffer views.
#include <stdexcept>
#include <string>

#include "device.h"

namespace moeflux {

Buffer Buffer::view(std::size_t view_offset, std::size_t view_nbytes) const {
  if (view_offset > nbytes || view_nbytes > nbytes - view_offset) {
    throw std::invalid_argument("a view of " + std::to_string(view_nbytes) + " bytes at offset " +
                                std::to_string(view_offset) + " reaches beyond a buffer of " + std::to_string(nbytes) +
                                " bytes");
  }
  return Buffer{allocation, offset + view_offset, view_nbytes};
}

}  // namespace moeflux
