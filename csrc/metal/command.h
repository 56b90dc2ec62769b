// Command buffers and the order in which they are submitted and found finished.
#pragma once
#import <Metal/Metal.h>

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "error.h"
#include "gpu/command_buffer.h"
#include "metal/commands.h"
#include "metal/objects.h"
#include "metal/pass_timings.h"
#include "thread.h"

namespace moeflux::metal {

// Committed work: what it uses until it has finished, and how it went from then on.
class Submission {
 public:
  Submission(CommandList list, objc_ptr<id<MTLCommandBuffer>> commands, std::unique_ptr<PassTimings> timings)
      : list_(std::move(list)), commands_(std::move(commands)), pass_timings_(std::move(timings)) {}

  const objc_ptr<id<MTLCommandBuffer>>& commands() const { return commands_; }
  bool settled() const { return settled_; }
  // Reads how the finished work went and lets go of all that it used.
  void settle(const std::string& label);
  // Fails with the error of earlier work, whose results it may have used.
  void inherit(std::shared_ptr<const CommandBufferError> failure) { failure_ = std::move(failure); }
  // These are valid once settled.
  const std::shared_ptr<const CommandBufferError>& failure() const { return failure_; }
  double seconds() const { return seconds_; }
  const std::vector<KernelTiming>& timings() const { return timings_; }

 private:
  CommandList list_;
  objc_ptr<id<MTLCommandBuffer>> commands_;
  std::unique_ptr<PassTimings> pass_timings_;
  std::shared_ptr<const CommandBufferError> failure_;
  double seconds_ = 0;
  std::vector<KernelTiming> timings_;
  std::atomic<bool> settled_{false};
};

// All work of a device, in the order of its commits. Reads the status of each command buffer, awaited or not: a failure
// that nobody has waited for is thrown by the next wait. Any thread may call.
class Submissions {
 public:
  using List = CommandList;
  using Submission = metal::Submission;

  explicit Submissions(std::shared_ptr<DeviceObjects> objects) : objects_(std::move(objects)) {}
  ~Submissions();
  Submissions(const Submissions&) = delete;
  Submissions& operator=(const Submissions&) = delete;

  DeviceObjects& objects() { return *objects_; }
  // Encodes and commits. Throws what encoding throws; nothing is committed then.
  std::shared_ptr<Submission> submit(CommandList& list, Step step, const std::string& label, bool timed);
  // Throws CommandBufferError of this submission, or of an earlier one that nobody was told of.
  void wait(const std::shared_ptr<Submission>& submission);
  // Whether the device is through with it, well or not.
  bool finished(const Submission& submission);
  // Waits for a submission, and throws nothing.
  void settle(const Submission& submission);
  // Waits for all that is committed, and throws nothing.
  void drain();

 private:
  struct Pending {
    std::shared_ptr<Submission> submission;
    std::string label;
  };

  // Settles the oldest work, which has finished. The lock is held.
  void settle_first();
  // Waits until the oldest work is settled. False if there is none.
  bool settle_oldest();

  std::shared_ptr<DeviceObjects> objects_;
  std::mutex mutex_;
  std::deque<Pending> pending_;
  std::shared_ptr<const CommandBufferError> unreported_;
};

using MetalQueue = gpu::GpuQueue<Submissions>;

}  // namespace moeflux::metal
