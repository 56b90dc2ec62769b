#include "cpu/thread_pool.h"

#include <algorithm>
#include <cstring>
#include <utility>

#ifdef __linux__
#include <sched.h>
#endif

#include "cpu/spin.h"
#include "thread.h"

namespace moeflux::cpu {
namespace {

constexpr std::uint64_t kWorkers = 0x7fffffff;
constexpr std::uint64_t kOpen = 0x80000000;

// So that a slow core does not hold up the others at the end.
constexpr std::size_t kChunksPerThread = 32;

std::uint32_t generation(std::uint64_t state) { return static_cast<std::uint32_t>(state >> 32); }

}  // namespace

unsigned n_available_cores() {
#ifdef __linux__
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) == 0) return static_cast<unsigned>(CPU_COUNT(&cores));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

std::optional<std::size_t> ThreadPool::Share::take(std::uint64_t from_front, std::uint64_t from_end) {
  std::uint64_t chunks = chunks_.load(std::memory_order_relaxed);
  for (;;) {
    const std::uint64_t first = chunks & 0xffffffff, end = chunks >> 32;
    if (first >= end) return std::nullopt;
    const std::uint64_t rest = (first + from_front) | (end - from_end) << 32;
    if (chunks_.compare_exchange_weak(chunks, rest, std::memory_order_relaxed)) return from_front ? first : end - 1;
  }
}

ThreadPool::ThreadPool(unsigned n_threads)
    : n_threads_(n_threads), may_spin_(n_threads <= n_available_cores()), shares_(n_threads) {
  try {
    for (unsigned i = 1; i < n_threads; ++i) workers_.push_back(start_thread([this, i] { work(i); }));
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  loop_opened_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

void ThreadPool::parallel_for(std::size_t n_items, std::size_t grain, const Body& body) {
  if (n_items == 0) return;
  grain = std::max<std::size_t>(grain, 1);
  const std::size_t n_grains = (n_items - 1) / grain + 1;
  const std::size_t chunk = grain * std::max<std::size_t>(1, n_grains / (n_threads_ * kChunksPerThread));
  if (workers_.empty() || chunk >= n_items || running_.exchange(true, std::memory_order_relaxed)) {
    body(0, n_items);
    return;
  }
  loop_.body = &body;
  loop_.n_items = n_items;
  loop_.chunk = chunk;
  loop_.error = nullptr;
  const std::size_t n_chunks = (n_items - 1) / chunk + 1;
  for (std::size_t i = 0; i < n_threads_; ++i) {
    shares_[i].set(n_chunks * i / n_threads_, n_chunks * (i + 1) / n_threads_);
  }
  open_loop();
  run_chunks(0);
  close_loop();
  running_.store(false, std::memory_order_relaxed);
  if (loop_.error) std::rethrow_exception(std::exchange(loop_.error, nullptr));
}

void ThreadPool::open_loop() {
  const std::uint64_t next = std::uint64_t{generation(state_.load(std::memory_order_relaxed)) + 1u} << 32;
  // Sequentially consistent, as is the count of sleepers: either this thread sees the sleeper or it sees the loop.
  state_.store(next | kOpen);
  if (n_sleeping_.load() == 0) return;
  // A sleeper between its last look and its wait holds the mutex.
  {
    const std::lock_guard lock(mutex_);
  }
  loop_opened_.notify_all();
}

void ThreadPool::close_loop() {
  state_.fetch_and(~kOpen);
  const auto all_left = [this] { return (state_.load() & kWorkers) == 0; };
  if (all_left() || (may_spin_ && spin_until(all_left))) return;
  caller_sleeps_ = true;
  {
    std::unique_lock lock(mutex_);
    workers_left_.wait(lock, all_left);
  }
  caller_sleeps_ = false;
}

void ThreadPool::run_chunks(unsigned thread) noexcept {
  while (const auto chunk = shares_[thread].take_first()) run_chunk(*chunk);
  for (unsigned i = 1; i < n_threads_; ++i) {
    while (const auto chunk = shares_[(thread + i) % n_threads_].take_last()) run_chunk(*chunk);
  }
}

void ThreadPool::run_chunk(std::size_t chunk) noexcept {
  const std::size_t begin = chunk * loop_.chunk;
  try {
    (*loop_.body)(begin, std::min(begin + loop_.chunk, loop_.n_items));
  } catch (...) {
    for (Share& share : shares_) share.set(0, 0);
    const std::lock_guard lock(mutex_);
    if (!loop_.error) loop_.error = std::current_exception();
  }
}

void ThreadPool::work(unsigned thread) {
  std::uint32_t last_generation = 0;
  while (sleep_until_loop(last_generation)) {
    if (!join(last_generation)) continue;
    run_chunks(thread);
    leave();
  }
}

// False when the pool stops.
bool ThreadPool::sleep_until_loop(std::uint32_t last_generation) {
  const auto awaited = [&] {
    const std::uint64_t state = state_.load();
    return stopping_.load() || ((state & kOpen) != 0 && generation(state) != last_generation);
  };
  if (!(may_spin_ && spin_until(awaited))) {
    std::unique_lock lock(mutex_);
    ++n_sleeping_;
    loop_opened_.wait(lock, awaited);
    --n_sleeping_;
  }
  return !stopping_;
}

bool ThreadPool::join(std::uint32_t& last_generation) {
  std::uint64_t state = state_.load();
  while ((state & kOpen) != 0) {
    if (state_.compare_exchange_weak(state, state + 1)) {
      last_generation = generation(state);
      return true;
    }
  }
  return false;
}

void ThreadPool::leave() {
  const std::uint64_t before = state_.fetch_sub(1);
  if ((before & kWorkers) != 1 || !caller_sleeps_.load()) return;
  {
    const std::lock_guard lock(mutex_);
  }
  workers_left_.notify_one();
}

std::byte* ThreadPool::scratch(std::size_t nbytes) {
  if (nbytes > scratch_nbytes_) {
    // Earlier addresses stay valid until the kernel returns.
    auto grown = std::make_unique<Pages>(std::max(nbytes, 2 * scratch_nbytes_));
    if (scratch_) {
      std::memcpy(grown->address(), scratch_->address(), scratch_nbytes_);
      outgrown_.push_back(std::move(scratch_));
    }
    scratch_ = std::move(grown);
    scratch_nbytes_ = std::max(nbytes, 2 * scratch_nbytes_);
  }
  return scratch_ ? scratch_->address() : nullptr;
}

}  // namespace moeflux::cpu
