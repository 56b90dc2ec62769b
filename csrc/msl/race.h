// Watches every access of a dispatch: races, reads of threadgroup memory that nobody wrote, memory that is not bound.
// Race mode only; elsewhere all of it is empty.
#pragma once

#include <stddef.h>

#include "run.h"

namespace msl::race {

enum class Access { READ, WRITE, ATOMIC_UPDATE, ATOMIC_WRITE };

#if defined(MSL_MODE_RACE)
// A function whose accesses are not watched: it notes them by itself, or reaches no memory of the shader's.
#define MSL_UNWATCHED __attribute__((no_sanitize("thread"), noinline))
void begin(const msl_dispatch& dispatch, const void* threadgroup_memory, size_t nbytes);
// Fills in the number of races and the message of what was found first.
msl_status end(msl_report& report);
// An access of the running thread, made by `code`.
void note(const void* address, size_t nbytes, Access access, const void* code);
// An access of the whole simdgroup, for which no lane's own order counts, on behalf of `code`.
void note_simdgroup(const void* address, size_t nbytes, Access access, const void* code);
#else
#define MSL_UNWATCHED inline
inline void begin(const msl_dispatch&, const void*, size_t) {}
inline msl_status end(msl_report&) { return MSL_OK; }
inline void note(const void*, size_t, Access, const void*) {}
inline void note_simdgroup(const void*, size_t, Access, const void*) {}
#endif

}  // namespace msl::race
