// NVRTC, CUDA's compiler at run time, as its documentation declares it.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moeflux::cuda {

using ProgramHandle = struct _nvrtcProgram*;

struct CompilerFunctions {
  int (*version)(int* major, int* minor);
  const char* (*error_string)(int result);
  int (*n_architectures)(int* count);
  int (*architectures)(int* numbers);
  int (*create)(ProgramHandle* program, const char* source, const char* name, int n_headers, const char* const* headers,
                const char* const* header_names);
  int (*destroy)(ProgramHandle* program);
  int (*compile)(ProgramHandle program, int n_options, const char* const* options);
  int (*log_size)(ProgramHandle program, std::size_t* nbytes);
  int (*log)(ProgramHandle program, char* text);
  int (*cubin_size)(ProgramHandle program, std::size_t* nbytes);
  int (*cubin)(ProgramHandle program, char* image);
};

struct HeaderText {
  std::string_view name;
  std::string_view text;
};

// What is compiled: one translated shader.
struct ProgramText {
  std::string_view name;
  std::string_view text;
  std::span<const HeaderText> headers;
};

class Compiler {
 public:
  // The first of these libraries that loads and that a driver of `driver_version` can serve. Throws NoDeviceError.
  static std::shared_ptr<const Compiler> load(const std::vector<std::string>& paths, int driver_version);

  // major * 1000 + minor * 10, as the driver counts.
  int version() const { return version_; }
  // Whether it makes machine code for a compute capability, as major * 10 + minor.
  bool supports(int capability) const;
  // Machine code for `capability`. Throws CompileError. Any thread may call.
  std::string compile(const ProgramText& program, int capability, const std::vector<std::string>& options) const;

 private:
  CompilerFunctions functions_{};
  int version_ = 0;
  std::vector<int> capabilities_;
};

}  // namespace moeflux::cuda
