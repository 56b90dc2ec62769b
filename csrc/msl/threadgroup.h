// Runs the threads of one threadgroup: in lockstep at barriers and simdgroup operations, everything else one by one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "context.h"
#include "fiber.h"

namespace msl {

inline std::size_t count(Extent extent) { return std::size_t{extent.x} * extent.y * extent.z; }

struct Counters {
  std::uint64_t barriers = 0;
  std::uint64_t simd_operations = 0;
  std::uint64_t divergent_operations = 0;
  std::string divergence;  // the place of the first
};

class Threadgroup : public Context {
 public:
  Threadgroup();
  ~Threadgroup();
  Threadgroup(const Threadgroup&) = delete;
  Threadgroup& operator=(const Threadgroup&) = delete;

  // Forgets what the last dispatch left.
  void begin(const msl_dispatch& dispatch);
  // Runs all threads of one threadgroup to their ends, or until one does what is not allowed.
  void run(const Entry& entry, Extent position);

  msl_status status() const { return status_; }
  const std::string& message() const { return message_; }
  const Counters& counters() const { return counters_; }

  // For the thread that runs, see context.h.
  void wait(std::uint32_t Simdgroup::* where, Site site);
  void barrier(std::uint32_t flags, Site site);
  void simdgroup_barrier(std::uint32_t flags, Site site);
  void* static_memory(std::size_t number, std::size_t nbytes);
  [[noreturn]] void fail(msl_status status, std::string message);

  // Order accesses of the threadgroup's threads: a barrier with the memory's flag begins a new epoch.
  std::uint64_t device_epoch() const { return device_epoch_; }
  std::uint64_t threadgroup_epoch() const { return threadgroup_epoch_; }
  // Differs for all threadgroups that run on this object.
  std::uint64_t serial() const { return serial_; }
  std::span<const std::byte> memory() const { return {arena_, ARENA_BYTES}; }
  // Whether the bytes are part of one variable or buffer in threadgroup memory.
  bool owns(const void* address, std::size_t nbytes) const;
  const Stacks& stacks() const { return stacks_; }

 private:
  static constexpr std::size_t ARENA_BYTES = 4 * MSL_MAX_THREADGROUP_BYTES;

  static void thread_main();

  void start(Extent position);
  bool choose();
  bool choose_simdgroup();
  void complete_operation(Simdgroup& simdgroup);
  bool open_barrier();
  void stop(msl_status status, std::string message);
  std::byte* allocate(std::size_t nbytes);
  bool lanes_backward() const { return (dispatch->order & 2) != 0; }
  bool groups_backward() const { return (dispatch->order & 1) != 0; }

  const Entry* entry_ = nullptr;
  msl_status status_ = MSL_OK;
  std::string message_;
  Counters counters_;
  std::size_t current_simdgroup_ = 0;
  std::uint32_t barrier_flags_ = 0;
  std::uint64_t device_epoch_ = 0;
  std::uint64_t threadgroup_epoch_ = 0;
  std::uint64_t serial_ = 0;
  std::vector<Simdgroup> simdgroups_;
  std::vector<Fiber> fibers_;
  Fiber caller_ = nullptr;
  Stacks stacks_;
  std::byte* arena_;
  std::size_t arena_used_ = 0;
  std::vector<std::span<const std::byte>> allocations_;
  std::vector<void*> static_memory_;
};

}  // namespace msl
