// A shader library on the host: its kernels, pipelines with their own function constants, and dispatches.
// Every shared object that compile.py builds exports these functions; plain C, so that dlsym is enough.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
  MSL_MAX_BUFFERS = 31,
  MSL_MAX_THREADS = 1024,             // of a threadgroup
  MSL_MAX_THREADGROUP_BYTES = 32768,  // static and dynamic threadgroup memory together
  MSL_SIMD_WIDTH = 32,
  MSL_MESSAGE_BYTES = 1024,
};

typedef enum {
  MSL_OK = 0,
  MSL_UNKNOWN_KERNEL,      // no kernel of that name
  MSL_WRONG_CONSTANT,      // a function constant without a value, unknown, or of the wrong size
  MSL_WRONG_BINDING,       // a buffer or threadgroup length that is missing
  MSL_LIMIT,               // too many threads or too much threadgroup memory
  MSL_DIVERGENT_BARRIER,   // a barrier not reached by all threads, or two barriers at once
  MSL_RACE,                // race mode: two accesses that nothing orders
  MSL_UNINITIALISED_READ,  // race mode: threadgroup memory that nobody wrote
  MSL_OUT_OF_BOUNDS,       // race mode: memory that is not bound
  MSL_HOST,                // the host could not run it, e.g. no memory for stacks
} msl_status;

typedef enum { MSL_ARGUMENT_BUFFER = 0, MSL_ARGUMENT_THREADGROUP = 1 } msl_argument_kind;

typedef enum { MSL_SPACE_DEVICE = 0, MSL_SPACE_CONSTANT = 1, MSL_SPACE_THREADGROUP = 2 } msl_address_space;

typedef struct {
  const char* name;
  msl_argument_kind kind;
  msl_address_space space;
  uint32_t index;
  uint32_t writable;  // the kernel may write through it
  size_t nbytes;      // of what a reference is to; 0 for a pointer
} msl_argument;

typedef struct {
  const char* name;
  const char* type;  // as written, e.g. "uint"
  uint32_t index;
  uint32_t nbytes;
} msl_constant;

typedef struct {
  const char* name;
  const msl_argument* arguments;  // buffers and threadgroup memory, in order of declaration
  size_t n_arguments;
  const char* const* constants;  // names of the function constants it uses, directly or not
  size_t n_constants;
  size_t static_threadgroup_nbytes;
} msl_kernel;

typedef struct {
  const char* name;
  const void* bytes;
  size_t nbytes;
} msl_constant_value;

// A kernel together with its function constants. Any number may exist, with different values.
typedef struct msl_pipeline msl_pipeline;

typedef struct {
  void* address;  // null: not bound
  size_t nbytes;
} msl_buffer;

typedef struct {
  const msl_pipeline* pipeline;
  msl_buffer buffers[MSL_MAX_BUFFERS];
  size_t threadgroup_nbytes[MSL_MAX_BUFFERS];
  uint32_t threadgroups[3];
  uint32_t threads[3];  // of a threadgroup
  // Bit 0: threadgroups and simdgroups run last to first; bit 1: lanes do. A sound kernel does not see it.
  uint32_t order;
  uint32_t workers;  // OS threads; 0: one per processor. Race mode always uses one.
} msl_dispatch;

typedef struct {
  uint64_t barriers;
  uint64_t simd_operations;
  uint64_t divergent_operations;  // simd operations with lanes missing: legal in Metal, a trap for full masks
  uint64_t races;
  char divergence[256];             // file:line of the first divergent operation, else empty
  char message[MSL_MESSAGE_BYTES];  // what is wrong, with file:line, if the status is not MSL_OK
} msl_report;

#ifndef MSL_EXPORT
#define MSL_EXPORT
#endif

// "default", "race" or "address".
MSL_EXPORT const char* msl_mode(void);

MSL_EXPORT size_t msl_kernel_count(void);
MSL_EXPORT const msl_kernel* msl_kernel_at(size_t i);
MSL_EXPORT size_t msl_constant_count(void);
MSL_EXPORT const msl_constant* msl_constant_at(size_t i);

// Copies the values. Constants that the kernel does not use may be given too, unknown names may not.
// `message` holds MSL_MESSAGE_BYTES.
MSL_EXPORT msl_status msl_pipeline_create(const char* kernel, const msl_constant_value* values, size_t n_values,
                                          msl_pipeline** pipeline, char* message);
MSL_EXPORT void msl_pipeline_destroy(msl_pipeline* pipeline);
MSL_EXPORT const msl_kernel* msl_pipeline_kernel(const msl_pipeline* pipeline);

// Blocks until all threadgroups have run. Dispatches of one library, whatever thread calls, run one after the other.
MSL_EXPORT msl_status msl_run(const msl_dispatch* dispatch, msl_report* report);

#ifdef __cplusplus
}
#endif
