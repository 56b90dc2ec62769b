// Persistent threads that run one loop at a time together. Knows nothing of kernels.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "cpu/kernel.h"
#include "pages.h"

namespace moeflux::cpu {

// Processors that this process may run on.
unsigned n_available_cores();

// n_threads - 1 workers and the calling thread. Called by one thread at a time; a loop started inside a loop's body
// runs on the thread that started it. Workers spin for a moment between loops and then sleep, unless cores are too few
// to spin.
class ThreadPool final : public ThreadTeam {
 public:
  using Body = std::function<void(std::size_t, std::size_t)>;

  // Throws DeviceError if a thread cannot be started.
  explicit ThreadPool(unsigned n_threads);
  ~ThreadPool() override;
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  unsigned n_threads() const override { return n_threads_; }
  // Throws the first exception of `body`, after every thread has left it; the ranges not begun are dropped.
  void parallel_for(std::size_t n_items, std::size_t grain, const Body& body) override;
  std::byte* scratch(std::size_t nbytes) override;
  // Called between kernels: frees scratch memory that has been outgrown.
  void release_outgrown_scratch() { outgrown_.clear(); }

 private:
  struct Loop {
    const Body* body = nullptr;
    std::size_t n_items = 0;
    std::size_t chunk = 0;
    std::exception_ptr error;
  };

  // The chunks of a loop that a thread begins with. It takes them in order, so that the memory it reads is one run;
  // threads that are done take the last ones from those that are not.
  class alignas(64) Share {
   public:
    void set(std::size_t first, std::size_t end) { chunks_.store(first | std::uint64_t{end} << 32); }
    std::optional<std::size_t> take_first() { return take(1, 0); }
    std::optional<std::size_t> take_last() { return take(0, 1); }

   private:
    std::optional<std::size_t> take(std::uint64_t from_front, std::uint64_t from_end);

    // The first chunk, and in the upper half the end.
    std::atomic<std::uint64_t> chunks_{0};
  };

  void stop();
  void work(unsigned thread);
  bool sleep_until_loop(std::uint32_t last_generation);
  bool join(std::uint32_t& last_generation);
  void leave();
  // `thread` is 0 for the caller, else the number of a worker from 1 on.
  void run_chunks(unsigned thread) noexcept;
  void run_chunk(std::size_t chunk) noexcept;
  void open_loop();
  void close_loop();

  unsigned n_threads_;
  bool may_spin_;
  Loop loop_;
  std::vector<Share> shares_;
  std::atomic<bool> running_{false};

  // Generation of the loop (upper half), whether it may be joined (one bit), how many workers are in it (the rest).
  // A worker that sleeps through a loop is not waited for.
  alignas(64) std::atomic<std::uint64_t> state_{0};
  alignas(64) std::atomic<unsigned> n_sleeping_{0};
  std::atomic<bool> caller_sleeps_{false};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable loop_opened_;
  std::condition_variable workers_left_;
  std::vector<std::thread> workers_;

  std::unique_ptr<Pages> scratch_;
  std::size_t scratch_nbytes_ = 0;
  std::vector<std::unique_ptr<Pages>> outgrown_;
};

}  // namespace moeflux::cpu
