// The table of all CPU kernels. Knows their names and checks, not what they compute.
#pragma once
#include <vector>

#include "cpu/kernel.h"

namespace moeflux::cpu {

std::vector<Kernel> all_kernels();

}  // namespace moeflux::cpu
