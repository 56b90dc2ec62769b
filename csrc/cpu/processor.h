// The processor's name, for people.
#pragma once
#include <string>

namespace moeflux::cpu {

std::string processor_name();

}  // namespace moeflux::cpu
