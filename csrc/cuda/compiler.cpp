#include "cuda/compiler.h"

#include <algorithm>

#include "cuda/driver.h"
#include "cuda/shared_object.h"
#include "error.h"

namespace moeflux::cuda {
namespace {

bool find_all(const SharedObject& library, CompilerFunctions& call) {
  return library.find(call.version, "nvrtcVersion") && library.find(call.error_string, "nvrtcGetErrorString") &&
         library.find(call.n_architectures, "nvrtcGetNumSupportedArchs") &&
         library.find(call.architectures, "nvrtcGetSupportedArchs") &&
         library.find(call.create, "nvrtcCreateProgram") && library.find(call.destroy, "nvrtcDestroyProgram") &&
         library.find(call.compile, "nvrtcCompileProgram") && library.find(call.log_size, "nvrtcGetProgramLogSize") &&
         library.find(call.log, "nvrtcGetProgramLog") && library.find(call.cubin_size, "nvrtcGetCUBINSize") &&
         library.find(call.cubin, "nvrtcGetCUBIN");
}

// A program of NVRTC, destroyed with its scope.
class Program {
 public:
  Program(const CompilerFunctions& call, const ProgramText& text) : call_(call), name_(text.name) {
    std::vector<std::string> names, headers;
    for (const HeaderText& header : text.headers) {
      names.emplace_back(header.name);
      headers.emplace_back(header.text);
    }
    std::vector<const char*> name_pointers, header_pointers;
    for (const std::string& name : names) name_pointers.push_back(name.c_str());
    for (const std::string& header : headers) header_pointers.push_back(header.c_str());
    check(call_.create(&handle_, std::string(text.text).c_str(), name_.c_str(), static_cast<int>(headers.size()),
                       header_pointers.data(), name_pointers.data()));
  }
  ~Program() {
    if (handle_ != nullptr) call_.destroy(&handle_);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  std::string compile(const std::vector<std::string>& options) {
    std::vector<const char*> pointers;
    for (const std::string& option : options) pointers.push_back(option.c_str());
    const int result = call_.compile(handle_, static_cast<int>(pointers.size()), pointers.data());
    if (result != 0) throw CompileError(name_, std::string(call_.error_string(result)) + "\n" + log());
    std::size_t nbytes = 0;
    check(call_.cubin_size(handle_, &nbytes));
    std::string image(nbytes, '\0');
    check(call_.cubin(handle_, image.data()));
    return image;
  }

 private:
  void check(int result) const {
    if (result != 0) throw CompileError(name_, std::string("NVRTC failed: ") + call_.error_string(result));
  }

  std::string log() const {
    std::size_t nbytes = 0;
    if (call_.log_size(handle_, &nbytes) != 0 || nbytes == 0) return "";
    std::string text(nbytes, '\0');
    if (call_.log(handle_, text.data()) != 0) return "";
    text.resize(text.find('\0') == std::string::npos ? nbytes : text.find('\0'));
    return text;
  }

  const CompilerFunctions& call_;
  std::string name_;
  ProgramHandle handle_ = nullptr;
};

}  // namespace

std::shared_ptr<const Compiler> Compiler::load(const std::vector<std::string>& paths, int driver_version) {
  std::string reasons;
  for (const std::string& path : paths) {
    const SharedObject library(path);
    auto compiler = std::make_shared<Compiler>();
    int major = 0, minor = 0, count = 0;
    if (!library.is_open()) {
      reasons += "; " + library.reason();
    } else if (!find_all(library, compiler->functions_) || compiler->functions_.version(&major, &minor) != 0) {
      reasons += "; " + path + " is no NVRTC of CUDA 11.2 or later";
    } else if (major > driver_version / 1000) {
      reasons += "; " + path + " is of CUDA " + std::to_string(major) + ", the driver serves CUDA " +
                 version_text(driver_version);
    } else if (compiler->functions_.n_architectures(&count) == 0) {
      compiler->version_ = major * 1000 + minor * 10;
      compiler->capabilities_.resize(static_cast<std::size_t>(count));
      if (compiler->functions_.architectures(compiler->capabilities_.data()) == 0) return compiler;
      reasons += "; " + path + " does not tell which GPUs it compiles for";
    }
  }
  throw NoDeviceError("no NVRTC, which compiles the kernels (pip install 'moeflux[cuda]')" + reasons);
}

bool Compiler::supports(int capability) const {
  return std::ranges::find(capabilities_, capability) != capabilities_.end();
}

std::string Compiler::compile(const ProgramText& program, int capability,
                              const std::vector<std::string>& options) const {
  std::vector<std::string> all = {"--gpu-architecture=sm_" + std::to_string(capability)};
  all.insert(all.end(), options.begin(), options.end());
  return Program(functions_, program).compile(all);
}

}  // namespace moeflux::cuda
