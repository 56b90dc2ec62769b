// Deliberate misuse of the fake, by name, for the test that it is refused.
#pragma once
#include <string>

namespace fake {

// Throws what the fake throws; false if there is no misuse of that name.
bool commit_misuse(const std::string& name);

}  // namespace fake
