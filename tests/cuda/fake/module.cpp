#include "module.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <sstream>
#include <vector>

#include "run.h"
#include "state.h"

struct FakeLibrary {
  decltype(&msl_pipeline_create) create;
  decltype(&msl_pipeline_destroy) destroy;
  decltype(&msl_pipeline_kernel) kernel;
  decltype(&msl_run) run;
};

namespace {

constexpr char MAGIC[] = "fake cubin";
constexpr unsigned N_BUFFERS_AT_MOST = 31;

template <typename Function>
bool find(void* handle, Function& function, const char* name) {
  function = reinterpret_cast<Function>(dlsym(handle, name));
  return function != nullptr;
}

// Never closed: its threads may still end.
std::shared_ptr<FakeLibrary> open_library(const std::string& path) {
  void* const handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  auto library = std::make_shared<FakeLibrary>();
  if (handle == nullptr || !find(handle, library->create, "msl_pipeline_create") ||
      !find(handle, library->destroy, "msl_pipeline_destroy") ||
      !find(handle, library->kernel, "msl_pipeline_kernel") || !find(handle, library->run, "msl_run")) {
    return nullptr;
  }
  return library;
}

}  // namespace

FakeFunction::~FakeFunction() { library_.destroy(static_cast<msl_pipeline*>(pipeline_)); }

std::vector<std::vector<std::byte>> FakeFunction::copy_of(void** arguments) const {
  const msl_kernel* kernel = library_.kernel(static_cast<msl_pipeline*>(pipeline_));
  std::vector<std::vector<std::byte>> copies;
  for (std::size_t i = 0; i < kernel->n_arguments; ++i) {
    const msl_argument& argument = kernel->arguments[i];
    const bool by_value = argument.space == MSL_SPACE_CONSTANT && argument.nbytes > 0;
    const auto* const first = static_cast<const std::byte*>(arguments[i]);
    copies.emplace_back(first, first + (by_value ? argument.nbytes : sizeof(unsigned long long)));
  }
  return copies;
}

int FakeFunction::run(std::array<unsigned, 3> grid, std::array<unsigned, 3> block,
                      std::vector<std::vector<std::byte>>& arguments) const {
  msl_dispatch dispatch{};
  dispatch.pipeline = static_cast<msl_pipeline*>(pipeline_);
  dispatch.workers = 1;
  for (unsigned i = 0; i < 3; ++i) {
    dispatch.threadgroups[i] = grid[i];
    dispatch.threads[i] = block[i];
  }
  const msl_kernel* kernel = library_.kernel(dispatch.pipeline);
  for (std::size_t i = 0; i < kernel->n_arguments; ++i) {
    const msl_argument& argument = kernel->arguments[i];
    if (argument.index >= N_BUFFERS_AT_MOST) return INVALID_VALUE;
    msl_buffer& buffer = dispatch.buffers[argument.index];
    if (argument.space == MSL_SPACE_CONSTANT && argument.nbytes > 0) {
      buffer = {arguments[i].data(), arguments[i].size()};
      continue;
    }
    unsigned long long address = 0;
    std::memcpy(&address, arguments[i].data(), sizeof address);
    buffer = {reinterpret_cast<void*>(address), room_at(address)};
    if (buffer.nbytes == 0) return ILLEGAL_ADDRESS;
  }
  msl_report report{};
  const msl_status status = library_.run(&dispatch, &report);
  if (status == MSL_OK && report.divergent_operations == 0) return SUCCESS;
  std::fprintf(stderr, "fake CUDA: %s: %s%s\n", kernel->name, report.message, report.divergence);
  return status == MSL_OUT_OF_BOUNDS ? ILLEGAL_ADDRESS : LAUNCH_FAILED;
}

void FakeLaunch::run() {
  const int result = function->run(grid, block, arguments);
  if (result != SUCCESS) state().sticky = result;
}

FakeModule* FakeModule::load(const char* image) {
  std::istringstream lines(image);
  std::string line;
  if (!std::getline(lines, line) || line != MAGIC || !std::getline(lines, line)) return nullptr;
  auto module = std::make_unique<FakeModule>();
  module->library_ = open_library(line);
  if (!module->library_) return nullptr;
  std::string name;
  for (unsigned value; lines >> name >> value;) module->constants_[name] = value;
  return name == "end" ? module.release() : nullptr;
}

FakeFunction* FakeModule::function(const std::string& symbol) {
  if (symbol.rfind("msl_", 0) != 0) return nullptr;
  std::unique_ptr<FakeFunction>& function = functions_[symbol];
  if (function) return function.get();
  std::vector<msl_constant_value> values;
  for (const auto& [name, value] : constants_) values.push_back({name.c_str(), &value, sizeof value});
  msl_pipeline* pipeline = nullptr;
  char message[MSL_MESSAGE_BYTES] = {};
  if (library_->create(symbol.c_str() + 4, values.data(), values.size(), &pipeline, message) != MSL_OK) {
    std::fprintf(stderr, "fake CUDA: %s: %s\n", symbol.c_str(), message);
    return nullptr;
  }
  function = std::make_unique<FakeFunction>(*library_, pipeline);
  return function.get();
}
