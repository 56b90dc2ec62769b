// Instruction set detection.
#include <algorithm>

#include "check.h"
#include "cpu/functions.h"
#include "cpu/kernel.h"

using namespace moeflux::cpu;

TEST(baseline_is_always_available_and_last) { CHECK(available_instruction_sets().back() == InstructionSet::baseline); }

TEST(each_set_is_listed_once_and_has_a_name_of_its_own) {
  std::vector<std::string_view> names;
  for (const InstructionSet set : available_instruction_sets()) names.push_back(instruction_set_name(set));
  std::ranges::sort(names);
  CHECK(std::ranges::adjacent_find(names) == names.end());
}

TEST(every_set_sums_all_floats_that_the_bandwidth_is_measured_by) {
  std::vector<float> x(384);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i + 1);
  for (const InstructionSet set : available_instruction_sets()) CHECK(functions(set).sum(x.data(), 384) == 73920.0f);
}

TEST_MAIN
