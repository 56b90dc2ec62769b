// Metal for nvcc and NVRTC: a warp per simdgroup, a block per threadgroup.
//
// Simdgroup operations take all 32 lanes. A kernel that does them with lanes missing is wrong here; the host runner
// counts such operations. Function constants are compile-time constants, given as -DMSL_VALUE_name=value, else 0.
#pragma once

// The __launch_bounds__ of kernels that have no largest number of threads of their own.
#if !defined(MSL_BOUNDS)
#define MSL_BOUNDS
#endif

#if defined(__CUDACC_RTC__)
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fc00000)
#define HUGE_VALF INFINITY
#define FLT_MAX 3.402823466e+38f
#define FLT_MIN 1.175494351e-38f
#define FLT_EPSILON 1.192092896e-07f
#else
#include <cfloat>
#include <cmath>
#include <cstring>
#endif

#include "cuda_names.h"
#include "functions.h"
#include "position.h"

namespace msl {

// All of a block's dynamic memory; kernels get offsets into it.
extern __shared__ __align__(16) unsigned char threadgroup_memory[];

MSL_INLINE metal::uint thread_index() { return (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x; }
MSL_INLINE metal::uint lane_index() { return thread_index() % 32; }

struct Frame {
  MSL_INLINE Position thread_position_in_grid() const {
    return {blockIdx.x * blockDim.x + threadIdx.x, blockIdx.y * blockDim.y + threadIdx.y,
            blockIdx.z * blockDim.z + threadIdx.z};
  }
  MSL_INLINE Position thread_position_in_threadgroup() const { return {threadIdx.x, threadIdx.y, threadIdx.z}; }
  MSL_INLINE Position threadgroup_position_in_grid() const { return {blockIdx.x, blockIdx.y, blockIdx.z}; }
  MSL_INLINE Position threads_per_grid() const {
    return {gridDim.x * blockDim.x, gridDim.y * blockDim.y, gridDim.z * blockDim.z};
  }
  MSL_INLINE Position threads_per_threadgroup() const { return {blockDim.x, blockDim.y, blockDim.z}; }
  MSL_INLINE Position dispatch_threads_per_threadgroup() const { return threads_per_threadgroup(); }
  MSL_INLINE Position threadgroups_per_grid() const { return {gridDim.x, gridDim.y, gridDim.z}; }
  MSL_INLINE metal::uint thread_index_in_threadgroup() const { return thread_index(); }
  MSL_INLINE metal::uint thread_index_in_simdgroup() const { return lane_index(); }
  MSL_INLINE metal::uint simdgroup_index_in_threadgroup() const { return thread_index() / 32; }
  MSL_INLINE metal::uint simdgroups_per_threadgroup() const { return (blockDim.x * blockDim.y * blockDim.z + 31) / 32; }
  MSL_INLINE metal::uint threads_per_simdgroup() const { return 32; }
};

}  // namespace msl

namespace metal {

// Not Metal's: shaders that have it as a template mean this.
MSL_INLINE int dot_of_bytes(uint unsigned_bytes, uint signed_bytes, int sum) {
  int result;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(unsigned_bytes), "r"(signed_bytes), "r"(sum));
  return result;
}

}  // namespace metal

#include "atomic_cuda.h"
#include "simdgroup_cuda.h"
#include "simdgroup_matrix_cuda.h"

#define METAL_FUNC inline
#define MSL_FUNCTION __device__
#define MSL_STRUCT(name, ...)
#define MSL_KERNEL_FUNCTION static __device__
#define MSL_FUNCTION_CONSTANT(T, name) static constexpr T name = MSL_VALUE_##name
#define MSL_PROGRAM_CONSTANT static __constant__ const
#define MSL_DERIVED_CONSTANT static constexpr
#define MSL_THREADGROUP_BEGIN(number) __shared__ struct {
#define MSL_THREADGROUP_END(number, kernel) \
  }                                         \
  msl_variables_##number;
#define MSL_THREADGROUP_NAME(number, name) auto& name = msl_variables_##number.name;
#define MSL_DEVICE
#define MSL_CONSTANT const
#define MSL_THREADGROUP
#define MSL_THREAD
