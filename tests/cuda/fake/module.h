// A "cubin" of the fake NVRTC: the path of a shader library for the host, and the values of its function constants.
#pragma once
#include <array>
#include <map>
#include <memory>
#include <string>

struct FakeLibrary;

class FakeFunction {
 public:
  FakeFunction(const FakeLibrary& library, void* pipeline) : library_(library), pipeline_(pipeline) {}
  ~FakeFunction();
  FakeFunction(const FakeFunction&) = delete;
  FakeFunction& operator=(const FakeFunction&) = delete;

  // Arguments as cuLaunchKernel takes them. Runs all threadgroups.
  int run(std::array<unsigned, 3> grid, std::array<unsigned, 3> block, void** arguments) const;

 private:
  const FakeLibrary& library_;
  void* pipeline_;
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
