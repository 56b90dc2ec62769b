// Command buffers of the CPU backend and the thread that runs them, as asynchronous as a GPU's.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "cpu/commands.h"
#include "cpu/thread_pool.h"
#include "thread.h"

namespace moeflux::cpu {

// What a command buffer asks for and how it went. Holds native objects only, so that any thread may destroy it.
class Work {
 public:
  Work(Step step, std::string label) : step_(step), label_(std::move(label)) {}

  CommandList& commands() { return commands_; }
  const std::string& label() const { return label_; }
  void keep_timings() { timings_.emplace(); }
  // From here on another thread may run it.
  void commit();
  // Runs the commands, then lets go of all that they use.
  void run(ThreadPool& threads) noexcept;
  void wait() const;
  bool done() const { return done_.load(std::memory_order_acquire); }
  // These are valid once done; an empty failure means success.
  const std::string& failure() const { return failure_; }
  double seconds() const { return seconds_; }
  const std::optional<Timings>& timings() const { return timings_; }

 private:
  Step step_;
  std::string label_;
  CommandList commands_;
  std::string failure_;
  double seconds_ = 0;
  std::optional<Timings> timings_;
  std::atomic<bool> done_{false};
  mutable std::mutex mutex_;
  mutable std::condition_variable finished_;
};

// Runs work in the order of its submission on a thread of its own. Shared by all queues of a device.
class Executor {
 public:
  explicit Executor(unsigned n_threads);
  // Finishes what was submitted.
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  unsigned n_threads() const;
  void submit(std::shared_ptr<Work> work);
  // Throws DeviceError in a forked child.
  void check_process() const { owner_.check("the cpu device"); }

 private:
  class Thread;
  OwnerProcess owner_;
  ProcessOwned<Thread> thread_;
};

class CpuCommandBuffer final : public CommandBuffer {
 public:
  CpuCommandBuffer(std::shared_ptr<Executor> executor, Step step, std::string label);

  void dispatch(std::shared_ptr<Pipeline> pipeline, std::span<const Buffer> buffers,
                std::span<const std::byte> params) override;
  void copy(const Buffer& source, const Buffer& destination) override;
  void zero(const Buffer& destination) override;
  void replay(std::shared_ptr<Recording> recording) override;
  const std::string& label() const override { return work_->label(); }
  void commit() override;
  void wait() override;
  bool done() const override { return work_->done(); }
  double gpu_seconds() const override;
  void keep_timings() override;
  std::vector<KernelTiming> timings() const override;

 private:
  // The commands while they may still grow; throws DeviceError once committed.
  CommandList& open_commands(const char* what);
  std::string name() const;

  std::shared_ptr<Executor> executor_;
  std::shared_ptr<Work> work_;
  bool committed_ = false;
};

class CpuQueue final : public Queue {
 public:
  explicit CpuQueue(std::shared_ptr<Executor> executor) : executor_(std::move(executor)) {}
  std::shared_ptr<CommandBuffer> command_buffer(Step step, std::string label) override;

 private:
  std::shared_ptr<Executor> executor_;
};

}  // namespace moeflux::cpu
