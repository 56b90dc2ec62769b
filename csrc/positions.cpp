#include "positions.h"

#include <string>

#include "error.h"

namespace moeflux {

void check_context(const Step& step, uint32 context) {
  if (uint64{step.position} + step.n_tokens <= context) return;
  throw DeviceError(std::to_string(step.n_tokens) + " tokens at position " + std::to_string(step.position) +
                    " exceed the key/value cache of " + std::to_string(context) + " positions");
}

}  // namespace moeflux
