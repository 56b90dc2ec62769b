#include "cuda/driver.h"

#include "cuda/shared_object.h"
#include "error.h"

namespace moeflux::cuda {
namespace {

// The symbols are those that the reference's names stand for since CUDA 4.0, whatever the driver's version.
void find_all(const SharedObject& library, DriverFunctions& call) {
  const auto find = [&library](auto& function, const char* name) {
    if (!library.find(function, name)) throw NoDeviceError(std::string("the CUDA driver has no function ") + name);
  };
  find(call.init, "cuInit");
  find(call.get_version, "cuDriverGetVersion");
  find(call.error_name, "cuGetErrorName");
  find(call.error_string, "cuGetErrorString");
  find(call.device_count, "cuDeviceGetCount");
  find(call.device_get, "cuDeviceGet");
  find(call.device_name, "cuDeviceGetName");
  find(call.device_attribute, "cuDeviceGetAttribute");
  find(call.device_total_memory, "cuDeviceTotalMem_v2");
  find(call.context_retain, "cuDevicePrimaryCtxRetain");
  find(call.context_release, "cuDevicePrimaryCtxRelease_v2");
  find(call.context_push, "cuCtxPushCurrent_v2");
  find(call.context_pop, "cuCtxPopCurrent_v2");
  find(call.memory_info, "cuMemGetInfo_v2");
  find(call.memory_alloc, "cuMemAlloc_v2");
  find(call.memory_free, "cuMemFree_v2");
  find(call.host_alloc, "cuMemHostAlloc");
  find(call.host_free, "cuMemFreeHost");
  find(call.host_device_pointer, "cuMemHostGetDevicePointer_v2");
  find(call.fill_async, "cuMemsetD8Async");
  find(call.copy_to_device_async, "cuMemcpyHtoDAsync_v2");
  find(call.copy_to_host_async, "cuMemcpyDtoHAsync_v2");
  find(call.copy_async, "cuMemcpyDtoDAsync_v2");
  find(call.stream_create, "cuStreamCreate");
  find(call.stream_destroy, "cuStreamDestroy_v2");
  find(call.stream_query, "cuStreamQuery");
  find(call.event_create, "cuEventCreate");
  find(call.event_destroy, "cuEventDestroy_v2");
  find(call.event_record, "cuEventRecord");
  find(call.event_query, "cuEventQuery");
  find(call.event_elapsed, "cuEventElapsedTime");
  find(call.module_load, "cuModuleLoadData");
  find(call.module_unload, "cuModuleUnload");
  find(call.module_function, "cuModuleGetFunction");
  find(call.function_attribute, "cuFuncGetAttribute");
  find(call.launch, "cuLaunchKernel");
}

bool find_graphs(const SharedObject& library, GraphFunctions& call) {
  return library.find(call.create, "cuGraphCreate") && library.find(call.destroy, "cuGraphDestroy") &&
         library.find(call.add_kernel, "cuGraphAddKernelNode_v2") &&
         library.find(call.instantiate, "cuGraphInstantiateWithFlags") &&
         library.find(call.set_kernel, "cuGraphExecKernelNodeSetParams_v2") &&
         library.find(call.launch, "cuGraphLaunch") && library.find(call.destroy_executable, "cuGraphExecDestroy");
}

}  // namespace

std::shared_ptr<const Driver> Driver::load(const std::string& path) {
  const SharedObject library(path);
  if (!library.is_open()) throw NoDeviceError("this machine has no CUDA driver: " + library.reason());
  auto driver = std::make_shared<Driver>();
  find_all(library, driver->functions_);
  driver->has_graphs_ = find_graphs(library, driver->graph_functions_);
  if (const Result result = driver->functions_.init(0); result != kSuccess) {
    throw NoDeviceError("the CUDA driver does not start: " + driver->text_of(result));
  }
  driver->check(driver->functions_.get_version(&driver->version_), "the CUDA driver's version");
  return driver;
}

std::string Driver::text_of(Result result) const {
  const char* name = nullptr;
  const char* meaning = nullptr;
  if (functions_.error_name(result, &name) != kSuccess || name == nullptr) name = "unknown result";
  if (functions_.error_string(result, &meaning) != kSuccess || meaning == nullptr) meaning = "no description";
  return std::string(meaning) + " (" + name + ", code " + std::to_string(result) + ")";
}

void Driver::check(Result result, const std::string& what) const {
  if (result != kSuccess) throw DeviceError(what + ": " + text_of(result));
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace moeflux::cuda
