#include "shader_line.h"

#include <dlfcn.h>
#include <link.h>

#include <array>
#include <cstdio>
#include <memory>
#include <string_view>

namespace msl {
namespace {

struct Range {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  std::string path;
};

int find_range(dl_phdr_info* info, std::size_t, void* data) {
  auto& range = *static_cast<Range*>(data);
  const auto here = reinterpret_cast<std::uintptr_t>(&find_range);
  std::uintptr_t end = info->dlpi_addr;
  bool contains = false;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD) continue;
    const std::uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
    contains = contains || (here >= begin && here < begin + segment.p_memsz);
    end = begin + segment.p_memsz;
  }
  if (!contains) return 0;
  range = {info->dlpi_addr, end, info->dlpi_name};
  return 1;
}

const Range& library_range() {
  static const Range range = [] {
    Range found;
    ::dl_iterate_phdr(&find_range, &found);
    return found;
  }();
  return range;
}

// The symbolizer prints pairs of lines, function and place, the innermost inlined one first.
std::string first_place_in_shader(const std::string& output) {
  constexpr std::string_view own_file = __FILE__;
  const std::string_view own_folder = own_file.substr(0, own_file.rfind('/') + 1);
  std::string last;
  bool is_place = false;
  for (std::size_t begin = 0, end; (end = output.find('\n', begin)) != std::string::npos; begin = end + 1) {
    std::string line = output.substr(begin, end - begin);
    if (is_place && !line.empty()) {
      last = line.substr(0, line.rfind(':'));  // without the column
      if (!line.starts_with(own_folder)) return last;
    }
    is_place = !is_place;
  }
  return last;
}

}  // namespace

bool is_in_library(const void* address) {
  const auto value = reinterpret_cast<std::uintptr_t>(address);
  return value >= library_range().begin && value < library_range().end;
}

std::uint32_t library_offset(const void* code) {
  return static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(code) - library_range().begin);
}

std::string shader_line(std::uint32_t offset) {
  std::array<char, 32> address;
  std::snprintf(address.data(), address.size(), "0x%x", offset - 1);
  const std::string command =
      "llvm-symbolizer-19 --obj='" + library_range().path + "' " + address.data() + " 2>/dev/null";
  std::string output;
  if (const std::unique_ptr<FILE, int (*)(FILE*)> pipe(::popen(command.c_str(), "r"), &::pclose); pipe) {
    std::array<char, 256> part;
    while (std::fgets(part.data(), part.size(), pipe.get()) != nullptr) output += part.data();
  }
  const std::string place = first_place_in_shader(output);
  return place.empty() ? std::string("code offset ") + address.data() : place;
}

}  // namespace msl
