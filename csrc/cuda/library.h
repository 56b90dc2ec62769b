// Kernels compiled at run time for one GPU, and the pipelines that choose among them. Knows no buffers.
#pragma once
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "cuda/compiler.h"
#include "cuda/kernel_folder.h"
#include "cuda/kernel_source.h"
#include "cuda/objects.h"
#include "device.h"
#include "gpu/geometry.h"

namespace moeflux::cuda {

// A function with its constants, loaded on the GPU until destroyed.
class LoadedFunction {
 public:
  // Null if the GPU refuses the image; `result` says why.
  static std::unique_ptr<LoadedFunction> load(std::shared_ptr<DeviceObjects> objects, const std::string& image,
                                              const KernelFunction& function, Result& result);
  ~LoadedFunction();
  LoadedFunction(const LoadedFunction&) = delete;
  LoadedFunction& operator=(const LoadedFunction&) = delete;

  FunctionHandle handle() const { return handle_; }
  bool only_reads(std::size_t buffer) const { return function_.only_reads(buffer); }
  bool takes_step() const { return function_.takes_step; }
  std::size_t most_threads() const { return most_threads_; }

 private:
  LoadedFunction(std::shared_ptr<DeviceObjects> objects, ModuleHandle module, const KernelFunction& function)
      : objects_(std::move(objects)), module_(module), function_(function) {}

  std::shared_ptr<DeviceObjects> objects_;
  ModuleHandle module_;
  KernelFunction function_;
  FunctionHandle handle_ = nullptr;
  std::size_t most_threads_ = 0;
};

// Compiles functions, or finds them compiled. Any thread may ask.
class Library {
 public:
  Library(std::shared_ptr<DeviceObjects> objects, std::shared_ptr<const Compiler> compiler, int capability,
          const std::string& kernel_folder);

  // The context is current. Throws CompileError, KernelNotFoundError or PipelineError.
  std::unique_ptr<LoadedFunction> function(std::string_view function, const Constants& constants);
  DeviceObjects& objects() const { return *objects_; }
  const Compiler& compiler() const { return *compiler_; }
  int capability() const { return capability_; }
  // Functions that were made ready, compiled or found.
  std::size_t n_functions() const { return n_functions_; }

 private:
  struct Place {
    const KernelSource* source;
    const KernelFunction* function;
  };

  const Place& place_of(std::string_view function) const;
  std::string compile(const KernelSource& source, const std::string& function, const Constants& constants) const;

  std::shared_ptr<DeviceObjects> objects_;
  std::shared_ptr<const Compiler> compiler_;
  int capability_;
  KernelFolder kept_;
  std::map<std::string_view, Place> places_;  // by function
  std::atomic<std::size_t> n_functions_{0};
};

// A kernel with its constants; which of its functions runs is known with each dispatch.
class CudaPipeline final : public Pipeline {
 public:
  // Throws DeviceError for other constants than the kernel's.
  CudaPipeline(std::shared_ptr<Library> library, const gpu::Kernel& description, Constants constants);

  const std::string& kernel() const override { return name_; }
  const Constants& constants() const override { return constants_; }
  const gpu::Kernel& description() const { return description_; }

  // The context is current. Throws what Library::function throws.
  const LoadedFunction& function(std::string_view name);

 private:
  struct Functions {
    std::mutex mutex;
    std::map<std::string_view, std::unique_ptr<LoadedFunction>> by_name;
  };

  std::string name_;
  Constants constants_;
  const gpu::Kernel& description_;
  std::shared_ptr<Library> library_;
  ProcessOwned<Functions> functions_;
};

}  // namespace moeflux::cuda
