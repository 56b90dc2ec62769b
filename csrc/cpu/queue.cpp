#include "cpu/queue.h"

#include <chrono>
#include <exception>

#include "cpu/spin.h"
#include "error.h"

namespace moeflux::cpu {

void Work::commit() {
  if (timings_) timings_->origin = std::chrono::steady_clock::now();
}

void Work::run(ThreadPool& threads) noexcept {
  const auto start = std::chrono::steady_clock::now();
  try {
    commands_.run(step_, threads, timings_ ? &*timings_ : nullptr);
  } catch (const std::exception& error) {
    failure_ = error.what();
  } catch (...) {
    failure_ = "an exception of unknown type";
  }
  seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  commands_.clear();
  {
    const std::lock_guard lock(mutex_);
    done_.store(true, std::memory_order_release);
  }
  finished_.notify_all();
}

void Work::wait() const {
  std::unique_lock lock(mutex_);
  finished_.wait(lock, [this] { return done(); });
}

class Executor::Thread {
 public:
  explicit Thread(unsigned n_threads)
      : team_(n_threads), may_spin_(n_threads <= n_available_cores()), thread_(start_thread([this] { work(); })) {}

  ~Thread() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    submitted_.notify_one();
    thread_.join();
  }

  unsigned n_threads() const { return team_.n_threads(); }

  void submit(std::shared_ptr<Work> work) {
    {
      const std::lock_guard lock(mutex_);
      queue_.push_back(std::move(work));
      ++n_queued_;
    }
    submitted_.notify_one();
  }

 private:
  void work() {
    while (const std::shared_ptr<Work> next = take()) next->run(team_);
  }

  // The next piece of work, or null when there will be none.
  std::shared_ptr<Work> take() {
    const auto ready = [this] { return n_queued_.load() > 0 || stopping_.load(); };
    if (may_spin_) spin_until(ready);
    std::unique_lock lock(mutex_);
    submitted_.wait(lock, ready);
    if (queue_.empty()) return nullptr;
    std::shared_ptr<Work> next = std::move(queue_.front());
    queue_.pop_front();
    --n_queued_;
    return next;
  }

  ThreadPool team_;
  bool may_spin_;
  std::mutex mutex_;
  std::condition_variable submitted_;
  std::deque<std::shared_ptr<Work>> queue_;
  std::atomic<std::size_t> n_queued_{0};
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

Executor::Executor(unsigned n_threads) : thread_(make_process_owned<Thread>(n_threads)) {}

Executor::~Executor() = default;

unsigned Executor::n_threads() const { return thread_->n_threads(); }

void Executor::submit(std::shared_ptr<Work> work) {
  check_process();
  thread_->submit(std::move(work));
}

CpuCommandBuffer::CpuCommandBuffer(std::shared_ptr<Executor> executor, Step step, std::string label)
    : executor_(std::move(executor)), work_(make_process_owned<Work>(step, std::move(label))) {}

std::string CpuCommandBuffer::name() const { return "command buffer '" + label() + "'"; }

CommandList& CpuCommandBuffer::open_commands(const char* what) {
  if (committed_) throw DeviceError(std::string(what) + " after commit of " + name());
  return work_->commands();
}

void CpuCommandBuffer::dispatch(std::shared_ptr<Pipeline> pipeline, std::span<const Buffer> buffers,
                                std::span<const std::byte> params) {
  open_commands("dispatch").dispatch(std::move(pipeline), buffers, params);
}

void CpuCommandBuffer::copy(const Buffer& source, const Buffer& destination) {
  open_commands("copy").copy(source, destination);
}

void CpuCommandBuffer::zero(const Buffer& destination) { open_commands("zero").zero(destination); }

void CpuCommandBuffer::replay(std::shared_ptr<Recording> recording) {
  open_commands("replay").replay(std::move(recording));
}

void CpuCommandBuffer::commit() {
  if (committed_) throw DeviceError(name() + " is already committed");
  work_->commit();
  executor_->submit(work_);
  committed_ = true;
}

void CpuCommandBuffer::wait() {
  if (!committed_) throw DeviceError("wait for " + name() + ", which is not committed");
  executor_->check_process();
  work_->wait();
  if (!work_->failure().empty()) throw DeviceError(name() + ": " + work_->failure());
}

double CpuCommandBuffer::gpu_seconds() const {
  if (!done()) throw DeviceError("gpu_seconds of " + name() + ", which is not done");
  return work_->seconds();
}

void CpuCommandBuffer::keep_timings() {
  if (committed_) throw DeviceError("keep_timings after commit of " + name());
  work_->keep_timings();
}

std::vector<KernelTiming> CpuCommandBuffer::timings() const {
  if (!done()) throw DeviceError("timings of " + name() + ", which is not done");
  return work_->timings() ? work_->timings()->kernels : std::vector<KernelTiming>{};
}

std::shared_ptr<CommandBuffer> CpuQueue::command_buffer(Step step, std::string label) {
  return std::make_shared<CpuCommandBuffer>(executor_, step, std::move(label));
}

}  // namespace moeflux::cpu
