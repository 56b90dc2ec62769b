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
#include "cuda/work.h"
#include "error.h"
#include "gpu/command_buffer.h"

namespace moeflux::cuda {

// Committed work: what it uses until it has finished, and how it went from then on. The context is current where it is
// made and settled.
class Submission {
 public:
  Submission(DeviceObjects& objects, CommandList list, std::string label)
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
  using List = CommandList;
  using Submission = cuda::Submission;

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
  void launch(const std::shared_ptr<Submission>& submission, Work& work, bool timed);

  std::shared_ptr<DeviceObjects> objects_;
  std::mutex mutex_;
  std::deque<std::shared_ptr<Submission>> pending_;
  // The last one that found the stream idle, so that it began when it was committed.
  std::shared_ptr<const Submission> anchor_;
  Clock::time_point anchored_at_;
  std::shared_ptr<const CommandBufferError> unreported_;
};

using CudaQueue = gpu::GpuQueue<Submissions>;

}  // namespace moeflux::cuda
