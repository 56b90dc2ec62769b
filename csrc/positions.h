// The positions of a step against those of a key/value cache.
#pragma once
#include "params.h"

namespace moeflux {

// Throws DeviceError if the step's tokens do not fit a cache of `context` positions.
void check_context(const Step& step, uint32 context);

}  // namespace moeflux
