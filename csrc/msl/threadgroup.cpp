#include "threadgroup.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>
#include <utility>

#include "sanitizer.h"

namespace msl {

thread_local Context* current = nullptr;

namespace {

constexpr std::size_t ALIGNMENT = 16;
constexpr std::size_t RED_ZONE = 64;  // between two variables, for AddressSanitizer

std::size_t round_up(std::size_t nbytes) { return (nbytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

bool same(const Site& a, const Site& b) {
  return a.line == b.line && a.column == b.column && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

std::string text_of(const Site& site) { return std::string(site.file) + ":" + std::to_string(site.line); }

std::uint32_t lowest_lane(std::uint32_t mask) { return static_cast<std::uint32_t>(std::countr_zero(mask)); }
std::uint32_t highest_lane(std::uint32_t mask) { return 31 - static_cast<std::uint32_t>(std::countl_zero(mask)); }

}  // namespace

void wait_at_barrier(std::uint32_t flags, Site site) { static_cast<Threadgroup*>(current)->barrier(flags, site); }

void wait_at_simdgroup_barrier(std::uint32_t flags, Site site) {
  static_cast<Threadgroup*>(current)->simdgroup_barrier(flags, site);
}

void wait_for_simdgroup(Site site) { static_cast<Threadgroup*>(current)->wait(&Simdgroup::at_operation, site); }

void* static_memory(std::size_t number, std::size_t nbytes) {
  return static_cast<Threadgroup*>(current)->static_memory(number, nbytes);
}

bool add_static_memory(std::size_t kernel, std::size_t nbytes) {
  library.entries[kernel].kernel.static_threadgroup_nbytes += round_up(nbytes);
  return true;
}

Threadgroup::Threadgroup() : Context{}, arena_(new (std::align_val_t{64}) std::byte[ARENA_BYTES]) {}

Threadgroup::~Threadgroup() {
  unpoison(arena_, ARENA_BYTES);
  ::operator delete[](arena_, std::align_val_t{64});
}

std::byte* Threadgroup::allocate(std::size_t nbytes) {
  std::byte* memory = arena_ + arena_used_;
  arena_used_ += round_up(nbytes) + RED_ZONE;
  unpoison(memory, nbytes);
  std::memset(memory, 0xff, nbytes);  // NaN in every float format
  allocations_.emplace_back(memory, nbytes);
  return memory;
}

bool Threadgroup::owns(const void* address, std::size_t nbytes) const {
  const auto* first = static_cast<const std::byte*>(address);
  return std::any_of(allocations_.begin(), allocations_.end(), [&](std::span<const std::byte> allocation) {
    return first >= allocation.data() && first + nbytes <= allocation.data() + allocation.size();
  });
}

// The runner has checked that all of them fit.
void* Threadgroup::static_memory(std::size_t number, std::size_t nbytes) {
  if (static_memory_.size() <= number) static_memory_.resize(number + 1);
  if (static_memory_[number] == nullptr) static_memory_[number] = allocate(nbytes);
  return static_memory_[number];
}

void Threadgroup::begin(const msl_dispatch& next) {
  // Threads that never ended have left their frames marked.
  if (status_ != MSL_OK) unpoison(stacks_.begin(), stacks_.nbytes());
  status_ = MSL_OK;
  message_.clear();
  counters_ = {};
  dispatch = &next;
  threadgroups = {next.threadgroups[0], next.threadgroups[1], next.threadgroups[2]};
  threads = {next.threads[0], next.threads[1], next.threads[2]};
  const std::size_t n_threads = count(threads);
  n_simdgroups = static_cast<std::uint32_t>((n_threads + MSL_SIMD_WIDTH - 1) / MSL_SIMD_WIDTH);
  if (stacks_.count() < n_threads) stacks_.allocate(n_threads);
  if (simdgroups_.size() < n_simdgroups) simdgroups_.resize(n_simdgroups);
  simdgroups = simdgroups_.data();
  fibers_.resize(n_threads);
}

void Threadgroup::start(Extent at) {
  position = at;
  ++serial_;
  ++device_epoch_;
  ++threadgroup_epoch_;
  const std::size_t n_threads = fibers_.size();
  for (std::size_t i = 0; i < n_simdgroups; ++i) {
    Simdgroup& simdgroup = simdgroups_[i];
    const std::size_t n_lanes = n_threads - i * MSL_SIMD_WIDTH;
    simdgroup.lanes = n_lanes >= MSL_SIMD_WIDTH ? ~0u : (1u << n_lanes) - 1;
    simdgroup.ready = simdgroup.lanes;
    simdgroup.at_operation = simdgroup.at_barrier = simdgroup.finished = simdgroup.active = 0;
    ++simdgroup.device_epoch;
    ++simdgroup.threadgroup_epoch;
  }
  for (std::size_t i = 0; i < n_threads; ++i) fibers_[i] = make_fiber(stacks_.top(i), &Threadgroup::thread_main);
  current_simdgroup_ = groups_backward() ? n_simdgroups - 1 : 0;

  poison(arena_, ARENA_BYTES);
  arena_used_ = 0;
  allocations_.clear();
  for (void*& memory : static_memory_) memory = nullptr;
  for (std::size_t i = 0; i < MSL_MAX_BUFFERS; ++i) {
    const std::size_t nbytes = dispatch->threadgroup_nbytes[i];
    dynamic_memory[i] = nbytes == 0 ? nullptr : allocate(nbytes);
  }
}

void Threadgroup::run(const Entry& entry, Extent at) {
  entry_ = &entry;
  start(at);
  current = this;
  if (choose()) switch_fiber(&caller_, fibers_[thread]);
  current = nullptr;
}

void Threadgroup::thread_main() {
  auto& group = *static_cast<Threadgroup*>(current);
  group.entry_->call();
  Simdgroup& mine = group.simdgroup();
  const std::uint32_t bit = 1u << group.lane();
  mine.ready &= ~bit;
  mine.finished |= bit;
  Fiber* self = &group.fibers_[group.thread];
  switch_fiber(self, group.choose() ? group.fibers_[group.thread] : group.caller_);
  __builtin_unreachable();
}

void Threadgroup::barrier(std::uint32_t flags, Site site) {
  barrier_flags_ = flags;
  wait(&Simdgroup::at_barrier, site);
}

void Threadgroup::simdgroup_barrier(std::uint32_t flags, Site site) {
  const std::uint32_t parity = simdgroup().parity;
  wait(&Simdgroup::at_operation, site);
  Simdgroup& mine = simdgroup();
  if (mine.reduced[parity]) return;  // the first lane that goes on counts for all
  mine.reduced[parity] = true;
  if (flags & MEMORY_DEVICE) ++mine.device_epoch;
  if (flags & MEMORY_THREADGROUP) ++mine.threadgroup_epoch;
}

void Threadgroup::wait(std::uint32_t Simdgroup::* where, Site site) {
  Simdgroup& mine = simdgroup();
  const std::uint32_t bit = 1u << lane();
  mine.ready &= ~bit;
  mine.*where |= bit;
  mine.sites[lane()] = site;
  const std::uint32_t me = thread;
  if (!choose()) {
    switch_fiber(&fibers_[me], caller_);
  } else if (thread != me) {
    switch_fiber(&fibers_[me], fibers_[thread]);
  }
}

// Sets `thread` to the one that runs next; false if none can, because all are finished or something is wrong.
bool Threadgroup::choose() {
  for (;;) {
    if (status_ != MSL_OK) return false;
    Simdgroup& simdgroup = simdgroups_[current_simdgroup_];
    if (simdgroup.ready != 0) {
      const std::uint32_t lane = lanes_backward() ? highest_lane(simdgroup.ready) : lowest_lane(simdgroup.ready);
      thread = static_cast<std::uint32_t>(current_simdgroup_ * MSL_SIMD_WIDTH + lane);
      return true;
    }
    if (simdgroup.at_operation != 0) {
      complete_operation(simdgroup);
    } else if (!choose_simdgroup() && !open_barrier()) {
      return false;
    }
  }
}

bool Threadgroup::choose_simdgroup() {
  for (std::size_t i = 1; i < n_simdgroups; ++i) {
    const std::size_t step = groups_backward() ? n_simdgroups - i : i;
    const std::size_t next = (current_simdgroup_ + step) % n_simdgroups;
    if ((simdgroups_[next].ready | simdgroups_[next].at_operation) != 0) {
      current_simdgroup_ = next;
      return true;
    }
  }
  return false;
}

// No lane of the simdgroup can run on, so all that wait at one site do the operation together. Of several sites the
// first in the text comes first: lanes behind a branch so wait for those that are still in it.
void Threadgroup::complete_operation(Simdgroup& simdgroup) {
  Site site = simdgroup.sites[lowest_lane(simdgroup.at_operation)];
  for (std::uint32_t left = simdgroup.at_operation; left != 0; left &= left - 1) {
    const Site& other = simdgroup.sites[lowest_lane(left)];
    if (other.line < site.line || (other.line == site.line && other.column < site.column)) site = other;
  }
  std::uint32_t active = 0;
  for (std::uint32_t left = simdgroup.at_operation; left != 0; left &= left - 1) {
    const std::uint32_t lane = lowest_lane(left);
    if (same(simdgroup.sites[lane], site)) active |= 1u << lane;
  }
  ++counters_.simd_operations;
  if (active != simdgroup.lanes) {
    if (counters_.divergent_operations++ == 0) counters_.divergence = text_of(site);
  }
  simdgroup.active = active;
  simdgroup.reduced[simdgroup.parity] = false;
  simdgroup.parity ^= 1;
  simdgroup.at_operation &= ~active;
  simdgroup.ready = active;
}

bool Threadgroup::open_barrier() {
  const Site* site = nullptr;
  bool finished = false;
  for (std::size_t i = 0; i < n_simdgroups; ++i) {
    const Simdgroup& simdgroup = simdgroups_[i];
    finished = finished || simdgroup.finished != 0;
    for (std::uint32_t left = simdgroup.at_barrier; left != 0; left &= left - 1) {
      const Site& other = simdgroup.sites[lowest_lane(left)];
      if (site == nullptr) site = &other;
      if (!same(*site, other)) {
        stop(MSL_DIVERGENT_BARRIER,
             "threads of one threadgroup wait at different barriers, " + text_of(*site) + " and " + text_of(other));
        return false;
      }
    }
  }
  if (site == nullptr) return false;
  if (finished) {
    stop(MSL_DIVERGENT_BARRIER, "the barrier at " + text_of(*site) + " is not reached by all threads");
    return false;
  }
  ++counters_.barriers;
  if (barrier_flags_ & MEMORY_DEVICE) ++device_epoch_;
  if (barrier_flags_ & MEMORY_THREADGROUP) ++threadgroup_epoch_;
  for (std::size_t i = 0; i < n_simdgroups; ++i) std::swap(simdgroups_[i].ready, simdgroups_[i].at_barrier);
  current_simdgroup_ = groups_backward() ? n_simdgroups - 1 : 0;
  return true;
}

void Threadgroup::stop(msl_status why, std::string text) {
  if (status_ == MSL_OK) {
    status_ = why;
    message_ = std::move(text);
  }
}

void Threadgroup::fail(msl_status why, std::string text) {
  stop(why, std::move(text));
  switch_fiber(&fibers_[thread], caller_);
  __builtin_unreachable();
}

}  // namespace msl
