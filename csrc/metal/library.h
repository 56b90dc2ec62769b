// Shader libraries compiled from source at run time, and the pipeline states made from them. Knows no buffers.
#pragma once
#import <Metal/Metal.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "device.h"
#include "gpu/geometry.h"
#include "metal/objc_ptr.h"
#include "metal/shader_source.h"
#include "thread.h"

namespace moeflux::metal {

using gpu::Extent;
using gpu::Kernel;
using gpu::Launch;

// How freely the compiler may rearrange arithmetic. Metal's own default is the fastest, not the exact one.
enum class MathMode { safe, fast };

// A function with its constants, ready to run.
struct PipelineState {
  objc_ptr<id<MTLComputePipelineState>> state;
  std::size_t most_threads = 0;
};

// Compiles each library and each pipeline state when first asked for, once. Any thread may ask.
class Libraries {
 public:
  Libraries(objc_ptr<id<MTLDevice>> device, MathMode math_mode);

  // Compiles the library of a kernel's functions. Throws CompileError, or KernelNotFoundError without source for it.
  void compile(const Kernel& kernel);
  // Throws CompileError, KernelNotFoundError or PipelineError.
  PipelineState pipeline_state(std::string_view function, const Constants& constants);
  void compile_all();
  std::size_t n_pipeline_states() const { return n_pipeline_states_; }

 private:
  // The math mode is part of the key: another one is another library.
  using Key = std::pair<std::string_view, MathMode>;

  const ShaderSource& source_of(std::string_view function) const;
  id<MTLLibrary> library(const ShaderSource& source);

  objc_ptr<id<MTLDevice>> device_;
  MathMode math_mode_;
  std::map<std::string_view, const ShaderSource*> sources_;  // by function
  std::mutex mutex_;
  std::map<Key, objc_ptr<id<MTLLibrary>>> libraries_;
  std::atomic<std::size_t> n_pipeline_states_{0};
};

// A kernel with its constants; which of its functions runs is known with each dispatch.
class MetalPipeline final : public Pipeline {
 public:
  // Throws DeviceError for other constants than the kernel's.
  MetalPipeline(std::shared_ptr<Libraries> libraries, const Kernel& description, Constants constants);

  const std::string& kernel() const override { return name_; }
  const Constants& constants() const override { return constants_; }
  const Kernel& description() const { return description_; }

  // Throws what Libraries::pipeline_state throws.
  const PipelineState& state(std::string_view function);
  // Compiles all functions of the kernel.
  void warm();

 private:
  struct States {
    std::mutex mutex;
    std::map<std::string_view, PipelineState> by_function;
  };

  std::string name_;
  Constants constants_;
  const Kernel& description_;
  std::shared_ptr<Libraries> libraries_;
  ProcessOwned<States> states_;
};

}  // namespace moeflux::metal
