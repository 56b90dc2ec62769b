// For ctypes. Plain C++, since exceptions cannot be caught in Objective-C++ on GCC's runtime.
#include <exception>
#include <string>

#include "misuse.h"

extern "C" __attribute__((visibility("default"))) const char* fake_metal_misuse(const char* name) {
  static thread_local std::string said;
  try {
    said = fake::commit_misuse(name) ? "" : "no misuse of that name";
  } catch (const std::exception& error) {
    said = error.what();
  }
  return said.c_str();
}
