// How fast this machine reads memory, the limit of every decode step.
#pragma once
#include <cstddef>

namespace moeflux {

// Bytes per second at which n_threads (0: one per core) together read nbytes of memory, the best of a few passes.
double measure_read_bandwidth(std::size_t nbytes, unsigned n_threads);

}  // namespace moeflux
