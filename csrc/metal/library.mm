#include "metal/library.h"

#include "error.h"
#include "metal/autorelease_pool.h"
#include "metal/failure.h"

namespace moeflux::metal {
namespace {

const char* name_of(MathMode mode) { return mode == MathMode::safe ? "safe" : "fast"; }

objc_ptr<MTLCompileOptions*> compile_options(MathMode mode) {
  auto options = objc_ptr<MTLCompileOptions*>::adopt([[MTLCompileOptions alloc] init]);
  [options.get() setLanguageVersion:MTLLanguageVersion3_1];
#if __MAC_OS_X_VERSION_MAX_ALLOWED >= 150000
  if (@available(macOS 15.0, *)) {
    if ([options.get() respondsToSelector:@selector(setMathMode:)]) {
      [options.get() setMathMode:mode == MathMode::safe ? MTLMathModeSafe : MTLMathModeFast];
      return options;
    }
  }
#endif
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wdeprecated-declarations"
  [options.get() setFastMathEnabled:mode == MathMode::fast];
#pragma clang diagnostic pop
  return options;
}

// Metal has no instruction for dot products of bytes.
constexpr bool kFixedPoint = false;

// Tells pipeline states apart in a GPU trace.
std::string label_of(std::string_view function, const Constants& constants) {
  std::string label(function);
  for (const auto& [name, value] : constants) label += " " + name + "=" + std::to_string(value);
  return label;
}

}  // namespace

Libraries::Libraries(objc_ptr<id<MTLDevice>> device, MathMode math_mode)
    : device_(std::move(device)), math_mode_(math_mode) {
  for (const ShaderSource& source : shader_sources()) {
    for (const std::string_view function : source.functions) sources_.emplace(function, &source);
  }
}

const ShaderSource& Libraries::source_of(std::string_view function) const {
  const auto found = sources_.find(function);
  if (found != sources_.end()) return *found->second;
  std::vector<std::string> available;
  for (const auto& [name, source] : sources_) available.emplace_back(name);
  throw KernelNotFoundError(std::string(function), std::move(available));
}

id<MTLLibrary> Libraries::library(const ShaderSource& source) {
  const std::lock_guard lock(mutex_);
  objc_ptr<id<MTLLibrary>>& library = libraries_[{source.family, math_mode_}];
  if (library) return library.get();
  const auto options = compile_options(math_mode_);
  NSError* error = nil;
  library = objc_ptr<id<MTLLibrary>>::adopt([device_.get() newLibraryWithSource:string_of(std::string(source.text))
                                                                        options:options.get()
                                                                          error:&error]);
  // A compiler may report warnings in `error` and still give the library.
  if (!library) throw CompileError(std::string(source.family), reason_of(error));
  const std::string label = std::string(source.family) + " " + name_of(math_mode_) + " " + std::string(source.sha256);
  [library.get() setLabel:string_of(label)];
  return library.get();
}

void Libraries::compile(const Kernel& kernel) {
  const AutoreleasePool pool;
  for (const std::string_view function : kernel.functions) library(source_of(function));
}

void Libraries::compile_all() {
  for (const ShaderSource& source : shader_sources()) {
    const AutoreleasePool pool;
    library(source);
  }
}

PipelineState Libraries::pipeline_state(std::string_view function, const Constants& constants) {
  const AutoreleasePool pool;
  const id<MTLLibrary> compiled = library(source_of(function));
  const std::string name(function);
  const auto values = objc_ptr<MTLFunctionConstantValues*>::adopt([[MTLFunctionConstantValues alloc] init]);
  for (const auto& [constant, value] : constants) {
    [values.get() setConstantValue:&value type:MTLDataTypeUInt withName:string_of(constant)];
  }
  NSError* error = nil;
  const auto specialised = objc_ptr<id<MTLFunction>>::adopt([compiled newFunctionWithName:string_of(name)
                                                                           constantValues:values.get()
                                                                                    error:&error]);
  if (!specialised) throw PipelineError(name, "cannot be specialised: " + reason_of(error));
  const auto descriptor = objc_ptr<MTLComputePipelineDescriptor*>::adopt([[MTLComputePipelineDescriptor alloc] init]);
  [descriptor.get() setComputeFunction:specialised.get()];
  [descriptor.get() setLabel:string_of(label_of(function, constants))];
  PipelineState made;
  made.state = objc_ptr<id<MTLComputePipelineState>>::adopt([device_.get()
      newComputePipelineStateWithDescriptor:descriptor.get()
                                    options:MTLPipelineOptionNone
                                 reflection:nullptr
                                      error:&error]);
  if (!made.state) throw PipelineError(name, "no pipeline state: " + reason_of(error));
  made.most_threads = [made.state.get() maxTotalThreadsPerThreadgroup];
  ++n_pipeline_states_;
  return made;
}

MetalPipeline::MetalPipeline(std::shared_ptr<Libraries> libraries, const Kernel& description, Constants constants)
    : name_(description.name),
      constants_(gpu::specialise(description, std::move(constants), kFixedPoint)),
      description_(description),
      libraries_(std::move(libraries)),
      states_(make_process_owned<States>()) {
  libraries_->compile(description);
}

const PipelineState& MetalPipeline::state(std::string_view function) {
  const std::lock_guard lock(states_->mutex);
  const auto known = states_->by_function.find(function);
  if (known != states_->by_function.end()) return known->second;
  return states_->by_function.emplace(function, libraries_->pipeline_state(function, constants_)).first->second;
}

void MetalPipeline::warm() {
  for (const std::string_view function : description_.functions) state(function);
}

}  // namespace moeflux::metal
