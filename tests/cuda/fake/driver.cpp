// A CUDA driver without a GPU: memory of the host, streams as threads, and kernels that the fake NVRTC compiled for the
// host. Refuses calls without a context, memory that is not there, and whatever a test asks it to refuse.
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "module.h"
#include "state.h"

#define ENTRY extern "C" __attribute__((visibility("default"))) int

using Address = unsigned long long;

struct FakeEvent {
  std::mutex mutex;
  bool pending = false;
  std::chrono::steady_clock::time_point time;
};

namespace {

std::set<FakeStream*> all_streams() {
  const std::lock_guard lock(state().mutex);
  return state().streams;
}

int make_memory(void** address, std::size_t nbytes, const char* kind) {
  State& s = state();
  {
    const std::lock_guard lock(s.mutex);
    if (nbytes > s.total_nbytes - s.allocated_nbytes) return OUT_OF_MEMORY;
  }
  *address = std::aligned_alloc(4096, (nbytes + 4095) / 4096 * 4096);
  if (*address == nullptr) return OUT_OF_MEMORY;
  // A driver clears nothing.
  std::memset(*address, 0xa5, nbytes);
  const std::lock_guard lock(s.mutex);
  s.memory[reinterpret_cast<Address>(*address)] = nbytes;
  s.allocated_nbytes += nbytes;
  ++s.live[kind];
  return SUCCESS;
}

// Freeing waits for the whole GPU, as the real driver's does.
int free_memory(Address address, const char* kind) {
  State& s = state();
  for (FakeStream* stream : all_streams()) stream->drain();
  {
    const std::lock_guard lock(s.mutex);
    const auto found = s.memory.find(address);
    if (found == s.memory.end()) return INVALID_VALUE;
    s.allocated_nbytes -= found->second;
    s.memory.erase(found);
    --s.live[kind];
  }
  std::free(reinterpret_cast<void*>(address));
  return SUCCESS;
}

// As a copy of memory that is not page-locked, which the driver stages before it returns.
void copy_now(FakeStream* stream, std::function<void()> copy) {
  stream->add(std::move(copy));
  stream->drain();
}

void* pointer(Address address) { return reinterpret_cast<void*>(address); }

}  // namespace

ENTRY cuInit(unsigned) { return entered("cuInit"); }
ENTRY cuDriverGetVersion(int* version) {
  *version = state().driver_version;
  return entered("cuDriverGetVersion");
}
ENTRY cuGetErrorName(int result, const char** name) {
  *name = result == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_OF_THE_FAKE";
  return SUCCESS;
}
ENTRY cuGetErrorString(int result, const char** text) {
  *text = result == OUT_OF_MEMORY ? "out of memory" : "refused by the fake driver";
  return SUCCESS;
}
ENTRY cuDeviceGetCount(int* count) {
  *count = state().n_devices;
  return entered("cuDeviceGetCount");
}
ENTRY cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return entered("cuDeviceGet");
}
ENTRY cuDeviceGetName(char* name, int capacity, int) {
  std::strncpy(name, "Fake GPU", static_cast<std::size_t>(capacity));
  return entered("cuDeviceGetName");
}
ENTRY cuDeviceGetAttribute(int* value, int attribute, int) {
  const int capability = state().capability;
  *value = attribute == 75 ? capability / 10 : capability % 10;
  return entered("cuDeviceGetAttribute");
}
ENTRY cuDeviceTotalMem_v2(std::size_t* nbytes, int) {
  *nbytes = state().total_nbytes;
  return entered("cuDeviceTotalMem_v2");
}
ENTRY cuDevicePrimaryCtxRetain(void** context, int) {
  if (const int result = entered("cuDevicePrimaryCtxRetain"); result != SUCCESS) return result;
  *context = &state();
  count_live("context", 1);
  return SUCCESS;
}
ENTRY cuDevicePrimaryCtxRelease_v2(int) {
  count_live("context", -1);
  return entered("cuDevicePrimaryCtxRelease_v2");
}
ENTRY cuCtxPushCurrent_v2(void*) {
  if (const int result = entered("cuCtxPushCurrent_v2"); result != SUCCESS) return result;
  ++context_depth;
  return SUCCESS;
}
ENTRY cuCtxPopCurrent_v2(void** context) {
  *context = &state();
  --context_depth;
  return entered("cuCtxPopCurrent_v2");
}
ENTRY cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
  *total = state().total_nbytes;
  *free = *total - state().allocated_nbytes;
  return entered_context("cuMemGetInfo_v2");
}
ENTRY cuMemAlloc_v2(Address* address, std::size_t nbytes) {
  if (const int result = entered_context("cuMemAlloc_v2"); result != SUCCESS) return result;
  void* made = nullptr;
  const int result = nbytes == 0 ? INVALID_VALUE : make_memory(&made, nbytes, "memory");
  *address = reinterpret_cast<Address>(made);
  return result;
}
ENTRY cuMemFree_v2(Address address) {
  if (const int result = entered_context("cuMemFree_v2"); result != SUCCESS) return result;
  return free_memory(address, "memory");
}
ENTRY cuMemHostAlloc(void** address, std::size_t nbytes, unsigned) {
  if (const int result = entered_context("cuMemHostAlloc"); result != SUCCESS) return result;
  return make_memory(address, nbytes, "host memory");
}
ENTRY cuMemFreeHost(void* address) {
  if (const int result = entered_context("cuMemFreeHost"); result != SUCCESS) return result;
  return free_memory(reinterpret_cast<Address>(address), "host memory");
}
ENTRY cuMemHostGetDevicePointer_v2(Address* device, void* host, unsigned) {
  *device = reinterpret_cast<Address>(host);
  return entered_context("cuMemHostGetDevicePointer_v2");
}
ENTRY cuMemsetD8Async(Address destination, unsigned char value, std::size_t nbytes, FakeStream* stream) {
  if (const int result = entered_context("cuMemsetD8Async"); result != SUCCESS) return result;
  if (room_at(destination) < nbytes) return INVALID_VALUE;
  stream->add([=] { std::memset(pointer(destination), value, nbytes); });
  return SUCCESS;
}
ENTRY cuMemcpyHtoDAsync_v2(Address destination, const void* source, std::size_t nbytes, FakeStream* stream) {
  if (const int result = entered_context("cuMemcpyHtoDAsync_v2"); result != SUCCESS) return result;
  if (room_at(destination) < nbytes) return INVALID_VALUE;
  const auto copy = [=] { std::memcpy(pointer(destination), source, nbytes); };
  if (room_at(reinterpret_cast<Address>(source)) == 0) {
    copy_now(stream, copy);
  } else {
    stream->add(copy);
  }
  return SUCCESS;
}
ENTRY cuMemcpyDtoHAsync_v2(void* destination, Address source, std::size_t nbytes, FakeStream* stream) {
  if (const int result = entered_context("cuMemcpyDtoHAsync_v2"); result != SUCCESS) return result;
  if (room_at(source) < nbytes) return INVALID_VALUE;
  const auto copy = [=] { std::memcpy(destination, pointer(source), nbytes); };
  if (room_at(reinterpret_cast<Address>(destination)) == 0) {
    copy_now(stream, copy);
  } else {
    stream->add(copy);
  }
  return SUCCESS;
}
ENTRY cuMemcpyDtoDAsync_v2(Address destination, Address source, std::size_t nbytes, FakeStream* stream) {
  if (const int result = entered_context("cuMemcpyDtoDAsync_v2"); result != SUCCESS) return result;
  if (room_at(source) < nbytes || room_at(destination) < nbytes) return INVALID_VALUE;
  stream->add([=] { std::memcpy(pointer(destination), pointer(source), nbytes); });
  return SUCCESS;
}
ENTRY cuStreamCreate(FakeStream** stream, unsigned) {
  if (const int result = entered_context("cuStreamCreate"); result != SUCCESS) return result;
  *stream = new FakeStream;
  count_live("stream", 1);
  const std::lock_guard lock(state().mutex);
  state().streams.insert(*stream);
  return SUCCESS;
}
ENTRY cuStreamDestroy_v2(FakeStream* stream) {
  {
    const std::lock_guard lock(state().mutex);
    state().streams.erase(stream);
  }
  delete stream;
  count_live("stream", -1);
  return entered("cuStreamDestroy_v2");
}
ENTRY cuStreamQuery(FakeStream* stream) {
  if (const int result = entered_context("cuStreamQuery"); result != SUCCESS) return result;
  return stream->idle() ? SUCCESS : NOT_READY;
}
// Events are shared with the streams that will reach them.
ENTRY cuEventCreate(std::shared_ptr<FakeEvent>** event, unsigned) {
  if (const int result = entered_context("cuEventCreate"); result != SUCCESS) return result;
  *event = new std::shared_ptr<FakeEvent>(std::make_shared<FakeEvent>());
  count_live("event", 1);
  return SUCCESS;
}
ENTRY cuEventDestroy_v2(std::shared_ptr<FakeEvent>* event) {
  delete event;
  count_live("event", -1);
  return entered("cuEventDestroy_v2");
}
ENTRY cuEventRecord(std::shared_ptr<FakeEvent>* event, FakeStream* stream) {
  if (const int result = entered_context("cuEventRecord"); result != SUCCESS) return result;
  const std::shared_ptr<FakeEvent> shared = *event;
  {
    const std::lock_guard lock(shared->mutex);
    shared->pending = true;
  }
  stream->add([shared] {
    const std::lock_guard lock(shared->mutex);
    shared->time = std::chrono::steady_clock::now();
    shared->pending = false;
  });
  return SUCCESS;
}
ENTRY cuEventQuery(std::shared_ptr<FakeEvent>* event) {
  if (const int result = entered("cuEventQuery"); result != SUCCESS) return result;
  const std::lock_guard lock((*event)->mutex);
  return (*event)->pending ? int{NOT_READY} : state().sticky.load();
}
ENTRY cuEventElapsedTime(float* milliseconds, std::shared_ptr<FakeEvent>* begin, std::shared_ptr<FakeEvent>* end) {
  *milliseconds = std::chrono::duration<float, std::milli>((*end)->time - (*begin)->time).count();
  return entered("cuEventElapsedTime");
}
ENTRY cuModuleLoadData(FakeModule** module, const void* image) {
  if (const int result = entered_context("cuModuleLoadData"); result != SUCCESS) return result;
  *module = FakeModule::load(static_cast<const char*>(image));
  if (*module == nullptr) return INVALID_IMAGE;
  count_live("module", 1);
  return SUCCESS;
}
ENTRY cuModuleUnload(FakeModule* module) {
  delete module;
  count_live("module", -1);
  return entered("cuModuleUnload");
}
ENTRY cuModuleGetFunction(FakeFunction** function, FakeModule* module, const char* name) {
  if (const int result = entered_context("cuModuleGetFunction"); result != SUCCESS) return result;
  *function = module->function(name);
  return *function == nullptr ? NOT_FOUND : SUCCESS;
}
ENTRY cuFuncGetAttribute(int* value, int, FakeFunction*) {
  *value = 1024;
  return entered_context("cuFuncGetAttribute");
}
ENTRY cuLaunchKernel(FakeFunction* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                     unsigned block_y, unsigned block_z, unsigned, FakeStream* stream, void** arguments, void**) {
  if (const int result = entered_context("cuLaunchKernel"); result != SUCCESS) return result;
  if (const int result = state().next_kernel.exchange(SUCCESS); result != SUCCESS) {
    stream->add([result] { state().sticky = result; });
    return SUCCESS;
  }
  if (stream->hangs()) return SUCCESS;
  FakeLaunch launch{function, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, function->copy_of(arguments)};
  stream->add([launch]() mutable { launch.run(); });
  return SUCCESS;
}
