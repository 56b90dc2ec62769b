// What the fake driver knows: memory, failures to come, and how many of each object live.
#pragma once
#include <atomic>
#include <cstddef>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "streams.h"

enum FakeResult : int {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  INVALID_IMAGE = 200,
  INVALID_CONTEXT = 201,
  NOT_FOUND = 500,
  NOT_READY = 600,
  ILLEGAL_ADDRESS = 700,
  LAUNCH_FAILED = 719,
};

struct Failure {
  int result;
  int n_before;  // calls that still work
  int n_failing;
};

struct State {
  std::mutex mutex;
  std::map<std::string, Failure> failures;
  std::map<std::string, long> counts;                // calls
  std::map<std::string, long> live;                  // objects
  std::map<unsigned long long, std::size_t> memory;  // by address
  std::set<FakeStream*> streams;
  std::size_t total_nbytes = std::size_t{8} << 30;
  std::size_t allocated_nbytes = 0;
  std::atomic<int> sticky{SUCCESS};  // of a kernel that failed: every later call gives it
  std::atomic<int> next_kernel{SUCCESS};
  std::atomic<int> capability{90};
  std::atomic<int> driver_version{13000};
  std::atomic<int> n_devices{1};
};

inline State& state() {
  static State* const made = new State;  // streams may outlive static destruction
  return *made;
}

inline thread_local int context_depth = 0;

// What an entry point gives that fails on demand; counts the call.
inline int entered(const char* name) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  ++s.counts[name];
  const auto failure = s.failures.find(name);
  if (failure == s.failures.end()) return SUCCESS;
  if (failure->second.n_before-- > 0) return SUCCESS;
  failure->second.n_before = 0;
  const int result = failure->second.result;
  if (--failure->second.n_failing <= 0) s.failures.erase(failure);
  return result;
}

// The same for one that needs a context and a GPU that works.
inline int entered_context(const char* name) {
  if (const int result = entered(name); result != SUCCESS) return result;
  if (context_depth == 0) return INVALID_CONTEXT;
  return state().sticky;
}

inline void count_live(const char* what, long change) {
  const std::lock_guard lock(state().mutex);
  state().live[what] += change;
}

// Bytes from an address to the end of its allocation; 0 for memory that is not there.
inline std::size_t room_at(unsigned long long address) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  auto next = s.memory.upper_bound(address);
  if (next == s.memory.begin()) return 0;
  --next;
  const unsigned long long end = next->first + next->second;
  return address < end ? end - address : 0;
}
