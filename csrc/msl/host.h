// Metal for the host's compilers: what a translated shader includes to run as threads of a Threadgroup.
#pragma once

#include "context.h"
#include "functions.h"
#include "position.h"

namespace msl {

// The arguments of the current thread.
class Frame {
 public:
  void* buffer(size_t index) const { return context_.dispatch->buffers[index].address; }
  void* threadgroup(size_t index) const { return context_.dynamic_memory[index]; }

  Position thread_position_in_grid() const {
    const Extent group = context_.position, size = context_.threads;
    const Position in = thread_position_in_threadgroup();
    return {group.x * size.x + in.x, group.y * size.y + in.y, group.z * size.z + in.z};
  }
  Position thread_position_in_threadgroup() const {
    const Extent size = context_.threads;
    const uint32_t row = context_.thread / size.x;
    return {context_.thread % size.x, row % size.y, row / size.y};
  }
  Position threadgroup_position_in_grid() const { return position(context_.position); }
  Position threads_per_grid() const {
    const Extent groups = context_.threadgroups, size = context_.threads;
    return {groups.x * size.x, groups.y * size.y, groups.z * size.z};
  }
  Position threads_per_threadgroup() const { return position(context_.threads); }
  Position dispatch_threads_per_threadgroup() const { return position(context_.threads); }
  Position threadgroups_per_grid() const { return position(context_.threadgroups); }
  uint32_t thread_index_in_threadgroup() const { return context_.thread; }
  uint32_t thread_index_in_simdgroup() const { return context_.lane(); }
  uint32_t simdgroup_index_in_threadgroup() const { return context_.thread / MSL_SIMD_WIDTH; }
  uint32_t simdgroups_per_threadgroup() const { return context_.n_simdgroups; }
  uint32_t threads_per_simdgroup() const { return MSL_SIMD_WIDTH; }

 private:
  static Position position(Extent extent) { return {extent.x, extent.y, extent.z}; }

  const Context& context_ = *current;
};

// Counts a kernel's threadgroup variables when the library is loaded.
template <class Variables, size_t kernel>
struct StaticMemory {
  static inline const bool counted = add_static_memory(kernel, sizeof(Variables));
};

template <class Variables, size_t kernel>
Variables& threadgroup_variables(size_t number) {
  (void)StaticMemory<Variables, kernel>::counted;
  return *static_cast<Variables*>(static_memory(number, sizeof(Variables)));
}

}  // namespace msl

#include "atomic_host.h"
#include "simdgroup_host.h"
#include "simdgroup_matrix_host.h"

#define METAL_FUNC inline
#define MSL_FUNCTION
#define MSL_STRUCT(name, ...)
#define MSL_KERNEL_FUNCTION static
#define MSL_FUNCTION_CONSTANT(T, name) static T name
#define MSL_PROGRAM_CONSTANT static const
#define MSL_DERIVED_CONSTANT static
#define MSL_THREADGROUP_BEGIN(number) struct msl_threadgroup_##number {
#define MSL_THREADGROUP_END(number, kernel) \
  }                                         \
  ;                                         \
  auto& msl_variables_##number = msl::threadgroup_variables<msl_threadgroup_##number, kernel>(number);
#define MSL_THREADGROUP_NAME(number, name) auto& name = msl_variables_##number.name;
#define MSL_DEVICE
#define MSL_CONSTANT const
#define MSL_THREADGROUP
#define MSL_THREAD
