// Instruction set detection.
#include <algorithm>

#include "check.h"
#include "cpu/kernel.h"

using namespace moeflux::cpu;

TEST(baseline_is_always_available_and_last) { CHECK(available_instruction_sets().back() == InstructionSet::baseline); }

TEST(each_set_is_listed_once_and_has_a_name_of_its_own) {
  std::vector<std::string_view> names;
  for (const InstructionSet set : available_instruction_sets()) names.push_back(instruction_set_name(set));
  std::ranges::sort(names);
  CHECK(std::ranges::adjacent_find(names) == names.end());
}

TEST_MAIN
