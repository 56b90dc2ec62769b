// The CUDA driver, loaded at run time: the entry points in use, as the CUDA Driver API reference documents them.
#pragma once
#include <cstddef>
#include <memory>
#include <string>

namespace moeflux::cuda {

using Result = int;                        // CUresult
using DevicePointer = unsigned long long;  // CUdeviceptr
using ContextHandle = struct CUctx_st*;
using StreamHandle = struct CUstream_st*;
using EventHandle = struct CUevent_st*;
using ModuleHandle = struct CUmod_st*;
using FunctionHandle = struct CUfunc_st*;
using GraphHandle = struct CUgraph_st*;
using GraphNodeHandle = struct CUgraphNode_st*;
using GraphExecHandle = struct CUgraphExec_st*;

enum DriverResult : Result {
  kSuccess = 0,
  kOutOfMemory = 2,
  kNotInitialized = 3,
  kDeinitialized = 4,
  kDeviceUnavailable = 46,
  kNoDevice = 100,
  kInvalidContext = 201,
  kUncorrectableMemory = 214,
  kInvalidHandle = 400,
  kNotReady = 600,
  kIllegalAddress = 700,
  kLaunchOutOfResources = 701,
  kLaunchTimeout = 702,
  kContextIsDestroyed = 709,
  kMisalignedAddress = 716,
  kInvalidAddressSpace = 717,
  kNotPermitted = 800,
  kSystemNotReady = 802,
  kExternalDevice = 911,
};

enum DeviceAttribute : int { kComputeCapabilityMajor = 75, kComputeCapabilityMinor = 76 };
enum FunctionAttribute : int { kMaxThreadsPerBlock = 0 };
inline constexpr unsigned kStreamNonBlocking = 1;
// Page-locked memory that every context may use and that kernels address.
inline constexpr unsigned kHostPortable = 1, kHostDeviceMap = 2;

// Those of `libcuda` that are in use. Each gives a Result.
struct DriverFunctions {
  Result (*init)(unsigned flags);
  Result (*get_version)(int* version);
  Result (*error_name)(Result result, const char** name);
  Result (*error_string)(Result result, const char** text);
  Result (*device_count)(int* count);
  Result (*device_get)(int* device, int ordinal);
  Result (*device_name)(char* name, int capacity, int device);
  Result (*device_attribute)(int* value, int attribute, int device);
  Result (*device_total_memory)(std::size_t* nbytes, int device);
  Result (*context_retain)(ContextHandle* context, int device);
  Result (*context_release)(int device);
  Result (*context_push)(ContextHandle context);
  Result (*context_pop)(ContextHandle* context);
  Result (*memory_info)(std::size_t* free, std::size_t* total);
  Result (*memory_alloc)(DevicePointer* address, std::size_t nbytes);
  Result (*memory_free)(DevicePointer address);
  Result (*host_alloc)(void** address, std::size_t nbytes, unsigned flags);
  Result (*host_free)(void* address);
  Result (*host_device_pointer)(DevicePointer* device, void* host, unsigned flags);
  Result (*fill_async)(DevicePointer destination, unsigned char value, std::size_t nbytes, StreamHandle stream);
  Result (*copy_to_device_async)(DevicePointer destination, const void* source, std::size_t nbytes,
                                 StreamHandle stream);
  Result (*copy_to_host_async)(void* destination, DevicePointer source, std::size_t nbytes, StreamHandle stream);
  Result (*copy_async)(DevicePointer destination, DevicePointer source, std::size_t nbytes, StreamHandle stream);
  Result (*stream_create)(StreamHandle* stream, unsigned flags);
  Result (*stream_destroy)(StreamHandle stream);
  Result (*stream_query)(StreamHandle stream);
  Result (*event_create)(EventHandle* event, unsigned flags);
  Result (*event_destroy)(EventHandle event);
  Result (*event_record)(EventHandle event, StreamHandle stream);
  Result (*event_query)(EventHandle event);
  Result (*event_elapsed)(float* milliseconds, EventHandle begin, EventHandle end);
  Result (*module_load)(ModuleHandle* module, const void* image);
  Result (*module_unload)(ModuleHandle module);
  Result (*module_function)(FunctionHandle* function, ModuleHandle module, const char* name);
  Result (*function_attribute)(int* value, int attribute, FunctionHandle function);
  Result (*launch)(FunctionHandle function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                   unsigned block_y, unsigned block_z, unsigned shared_nbytes, StreamHandle stream, void** parameters,
                   void** extra);
};

// CUDA_KERNEL_NODE_PARAMS_v2
struct KernelNode {
  FunctionHandle function;
  unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z;
  unsigned shared_nbytes;
  void** parameters;
  void** extra;
  void* kernel;
  ContextHandle context;
};

// Those for graphs, which drivers have since CUDA 12.
struct GraphFunctions {
  Result (*create)(GraphHandle* graph, unsigned flags);
  Result (*destroy)(GraphHandle graph);
  Result (*add_kernel)(GraphNodeHandle* node, GraphHandle graph, const GraphNodeHandle* after, std::size_t n_after,
                       const KernelNode* kernel);
  Result (*instantiate)(GraphExecHandle* executable, GraphHandle graph, unsigned long long flags);
  Result (*set_kernel)(GraphExecHandle executable, GraphNodeHandle node, const KernelNode* kernel);
  Result (*launch)(GraphExecHandle executable, StreamHandle stream);
  Result (*destroy_executable)(GraphExecHandle executable);
};

class Driver {
 public:
  // Loads and initialises it. Throws NoDeviceError with the reason.
  static std::shared_ptr<const Driver> load(const std::string& path);

  const DriverFunctions& call() const { return functions_; }
  // Null for a driver without graphs.
  const GraphFunctions* graphs() const { return has_graphs_ ? &graph_functions_ : nullptr; }
  // The CUDA version that it serves, as major * 1000 + minor * 10.
  int version() const { return version_; }
  // Name, code and meaning of a result.
  std::string text_of(Result result) const;
  // Throws DeviceError with `what` and the reason.
  void check(Result result, const std::string& what) const;

 private:
  DriverFunctions functions_{};
  GraphFunctions graph_functions_{};
  bool has_graphs_ = false;
  int version_ = 0;
};

// "13.0" of 13000.
std::string version_text(int version);

}  // namespace moeflux::cuda
