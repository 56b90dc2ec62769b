// A "cubin" of the fake NVRTC: the path of a shader library for the host, and the values of its function constants.
#pragma once
#include <array>
#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <vector>

struct FakeLibrary;

class FakeFunction {
 public:
  FakeFunction(const FakeLibrary& library, void* pipeline) : library_(library), pipeline_(pipeline) {}
  ~FakeFunction();
  FakeFunction(const FakeFunction&) = delete;
  FakeFunction& operator=(const FakeFunction&) = delete;

  // What cuLaunchKernel's `arguments` point to, one after the other.
  std::vector<std::vector<std::byte>> copy_of(void** arguments) const;
  // Runs all threadgroups.
  int run(std::array<unsigned, 3> grid, std::array<unsigned, 3> block,
          std::vector<std::vector<std::byte>>& arguments) const;

 private:
  const FakeLibrary& library_;
  void* pipeline_;
};

// A kernel with all that it is launched with.
struct FakeLaunch {
  FakeFunction* function;
  std::array<unsigned, 3> grid;
  std::array<unsigned, 3> block;
  std::vector<std::vector<std::byte>> arguments;

  // What goes wrong sticks to the context.
  void run();
};

class FakeModule {
 public:
  // Null for an image that is none.
  static FakeModule* load(const char* image);
  // Null if there is no such kernel.
  FakeFunction* function(const std::string& symbol);

 private:
  std::shared_ptr<FakeLibrary> library_;
  std::map<std::string, unsigned> constants_;
  std::map<std::string, std::unique_ptr<FakeFunction>> functions_;
};
