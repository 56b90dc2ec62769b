#include "cuda/library.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include "error.h"
#include "params.h"

namespace moeflux::cuda {
namespace {

// Every GPU that is supported multiplies four bytes by four in one instruction.
constexpr bool kFixedPoint = true;

// Functions that take so many registers with codes of 4 bits that two threadgroups share a multiprocessor, where three
// hide better what each other waits for. With more bits, loops would spill.
constexpr std::array<std::string_view, 3> kWithFewerRegisters = {"matmul_decode_large", "expert_gate_up_decode",
                                                                 "expert_down_decode"};

bool takes_fewer_registers(const std::string& function, const Constants& constants) {
  return std::ranges::find(kWithFewerRegisters, function) != kWithFewerRegisters.end() &&
         std::ranges::all_of(constants, [](const auto& constant) {
           return !constant.first.ends_with("format") || format_bits(constant.second) == 4;
         });
}

// What is kept under one name is the same on every machine with that GPU and that compiler.
std::string folder_version(const Compiler& compiler, int capability) {
  return std::string(kernel_sources_sha256().substr(0, 16)) + "-sm_" + std::to_string(capability) + "-nvrtc" +
         version_text(compiler.version());
}

std::string file_name(const std::string& function, const Constants& constants) {
  std::string name = function;
  for (const auto& [constant, value] : constants) name += "." + constant + "=" + std::to_string(value);
  return name + ".cubin";
}

}  // namespace

std::unique_ptr<LoadedFunction> LoadedFunction::load(std::shared_ptr<DeviceObjects> objects, const std::string& image,
                                                     const KernelFunction& function, Result& result) {
  const DriverFunctions& call = objects->call();
  ModuleHandle module = nullptr;
  result = call.module_load(&module, image.data());
  if (result != kSuccess) return nullptr;
  std::unique_ptr<LoadedFunction> loaded(new LoadedFunction(std::move(objects), module, function));
  const std::string symbol = "msl_" + std::string(function.name);
  result = call.module_function(&loaded->handle_, module, symbol.c_str());
  if (result != kSuccess) return nullptr;
  int most_threads = 0;
  result = call.function_attribute(&most_threads, kMaxThreadsPerBlock, loaded->handle_);
  if (result != kSuccess) return nullptr;
  loaded->most_threads_ = static_cast<std::size_t>(most_threads);
  return loaded;
}

LoadedFunction::~LoadedFunction() {
  const ReleaseScope scope(*objects_);
  if (scope.usable()) objects_->call().module_unload(module_);
}

Library::Library(std::shared_ptr<DeviceObjects> objects, std::shared_ptr<const Compiler> compiler, int capability,
                 const std::string& kernel_folder)
    : objects_(std::move(objects)),
      compiler_(std::move(compiler)),
      capability_(capability),
      kept_(kernel_folder, folder_version(*compiler_, capability)) {
  for (const KernelSource& source : kernel_sources()) {
    for (const KernelFunction& function : source.functions) places_.emplace(function.name, Place{&source, &function});
  }
}

const Library::Place& Library::place_of(std::string_view function) const {
  const auto found = places_.find(function);
  if (found != places_.end()) return found->second;
  std::vector<std::string> available;
  for (const auto& [name, place] : places_) available.emplace_back(name);
  throw KernelNotFoundError(std::string(function), std::move(available));
}

std::string Library::compile(const KernelSource& source, const std::string& function,
                             const Constants& constants) const {
  std::vector<std::string> options = kernel_options();
  options.insert(options.end(), {"-DMSL_ONLY", "-DMSL_ONLY_" + function});
  for (const auto& [name, value] : constants) options.push_back("-DMSL_VALUE_" + name + "=" + std::to_string(value));
  if (takes_fewer_registers(function, constants)) options.push_back("-DMSL_BOUNDS=__launch_bounds__(256,3)");
  return compiler_->compile({source.family, source.text, kernel_headers()}, capability_, options);
}

std::unique_ptr<LoadedFunction> Library::function(std::string_view function, const Constants& constants) {
  const Place& place = place_of(function);
  const std::string name(function), file = file_name(name, constants);
  Result result = kSuccess;
  if (const std::optional<std::string> image = kept_.find(file)) {
    // An image that does not load, cut short for example, is compiled again.
    if (auto loaded = LoadedFunction::load(objects_, *image, *place.function, result)) {
      ++n_functions_;
      return loaded;
    }
  }
  const std::string image = compile(*place.source, name, constants);
  auto loaded = LoadedFunction::load(objects_, image, *place.function, result);
  if (!loaded) throw PipelineError(name, "the GPU cannot load it: " + objects_->driver().text_of(result));
  kept_.keep(file, image);
  ++n_functions_;
  return loaded;
}

CudaPipeline::CudaPipeline(std::shared_ptr<Library> library, const gpu::Kernel& description, Constants constants)
    : name_(description.name),
      constants_(gpu::specialise(description, std::move(constants), kFixedPoint)),
      description_(description),
      library_(std::move(library)),
      functions_(make_process_owned<Functions>()) {}

const LoadedFunction& CudaPipeline::function(std::string_view name) {
  const std::lock_guard lock(functions_->mutex);
  std::unique_ptr<LoadedFunction>& function = functions_->by_name[name];
  if (!function) function = library_->function(name, constants_);
  return *function;
}

}  // namespace moeflux::cuda
