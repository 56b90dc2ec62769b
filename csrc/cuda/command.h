// Command buffers and the order in which they are submitted and found finished.
#pragma once
#include <atomic>
#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cuda/commands.h"
#include "cuda/launches.h"
#include "error.h"

namespace moeflux::cuda {

// Committed work: what it uses until it has finished, and how it went from then on. The context is current where it is
// made and settled.
class Submission {
 public:
  Submission(const DeviceObjects& objects, CommandList list, std::string label)
      : list_(std::move(list)), label_(std::move(label)), begin_(objects), end_(objects) {}

  const CommandList& list() const { return list_; }
  const std::string& label() const { return label_; }
  EventHandle begin() const { return begin_.get(); }
  EventHandle end() const { return end_.get(); }
  // Keeps the marks of a timed submission, committed `lead_seconds` after `anchor`, which found the stream idle.
  void keep(Marks marks, std::shared_ptr<const Submission> anchor, double lead_seconds);
  bool settled() const { return settled_; }
  // Reads how the work went that ended with `result`, and lets go of all that it used.
  void settle(const DeviceObjects& objects, Result result);
  // Fails at once.
  void refuse(const DeviceObjects& objects, Result result);
  // Fails with the error of earlier work, whose results it may have used.
  void inherit(std::shared_ptr<const CommandBufferError> failure) { failure_ = std::move(failure); }
  // These are valid once settled.
  const std::shared_ptr<const CommandBufferError>& failure() const { return failure_; }
  double seconds() const { return seconds_; }
  const std::vector<KernelTiming>& timings() const { return timings_; }

 private:
  std::vector<KernelTiming> read_marks(const DeviceObjects& objects) const;

  CommandList list_;
  std::string label_;
  Event begin_;
  Event end_;
  Marks marks_;
  std::shared_ptr<const Submission> anchor_;
  double lead_seconds_ = 0;
  std::shared_ptr<const CommandBufferError> failure_;
  double seconds_ = 0;
  std::vector<KernelTiming> timings_;
  std::atomic<bool> settled_{false};
};

// All work of a device, in the order of its commits. Finds each command buffer's end, awaited or not: a failure that
// nobody has waited for is thrown by the next wait. Any thread may call.
class Submissions {
 public:
  explicit Submissions(std::shared_ptr<DeviceObjects> objects) : objects_(std::move(objects)) {}
  ~Submissions();
  Submissions(const Submissions&) = delete;
  Submissions& operator=(const Submissions&) = delete;

  // Launches all of it. Throws what preparing throws, and DeviceError for a lost device; nothing is launched then. A
  // launch that the driver refuses ends the submission, whose failure it is.
  std::shared_ptr<Submission> submit(CommandList& list, Step step, const std::string& label, bool timed);
  // Throws CommandBufferError of this submission, or of an earlier one that nobody was told of.
  void wait(const std::shared_ptr<Submission>& submission);
  // Whether the device is through with it, well or not.
  bool finished(const Submission& submission);
  // Waits for a submission, and throws nothing that it met.
  void settle(const Submission& submission);

 private:
  using Clock = std::chrono::steady_clock;

  bool is_over(const Submission& submission) const;
  // Settles the oldest work, which has ended with `result`. The lock is held.
  void settle_first(Result result);
  // Waits until the oldest work is settled. False if there is none.
  bool settle_oldest();
  // The lock is held.
  void launch(const std::shared_ptr<Submission>& submission, const Launches& launches, bool timed);

  std::shared_ptr<DeviceObjects> objects_;
  std::mutex mutex_;
  std::deque<std::shared_ptr<Submission>> pending_;
  // The last one that found the stream idle, so that it began when it was committed.
  std::shared_ptr<const Submission> anchor_;
  Clock::time_point anchored_at_;
  std::shared_ptr<const CommandBufferError> unreported_;
};

class CudaCommandBuffer final : public CommandBuffer {
 public:
  CudaCommandBuffer(std::shared_ptr<Submissions> submissions, Step step, std::string label)
      : submissions_(std::move(submissions)), step_(step), label_(std::move(label)) {}

  void dispatch(std::shared_ptr<Pipeline> pipeline, std::span<const Buffer> buffers,
                std::span<const std::byte> params) override;
  void copy(const Buffer& source, const Buffer& destination) override;
  void zero(const Buffer& destination) override;
  void replay(std::shared_ptr<Recording> recording) override;
  const std::string& label() const override { return label_; }
  void commit() override;
  void wait() override;
  bool done() const override;
  double gpu_seconds() const override;
  void keep_timings() override;
  std::vector<KernelTiming> timings() const override;

 private:
  // The commands while they may still grow; throws DeviceError once committed.
  CommandList& open_list(const char* what);
  // The finished work; throws DeviceError before that.
  const Submission& finished(const char* what) const;
  std::string name() const { return "command buffer '" + label_ + "'"; }

  std::shared_ptr<Submissions> submissions_;
  Step step_;
  std::string label_;
  CommandList list_;
  bool timed_ = false;
  std::shared_ptr<Submission> submission_;
};

class CudaQueue final : public Queue {
 public:
  explicit CudaQueue(std::shared_ptr<Submissions> submissions) : submissions_(std::move(submissions)) {}
  std::shared_ptr<CommandBuffer> command_buffer(Step step, std::string label) override {
    return std::make_shared<CudaCommandBuffer>(submissions_, step, std::move(label));
  }

 private:
  std::shared_ptr<Submissions> submissions_;
};

}  // namespace moeflux::cuda
