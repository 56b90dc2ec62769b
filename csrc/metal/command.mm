#include "metal/command.h"

#include <algorithm>
#include <utility>

#include "metal/autorelease_pool.h"
#include "metal/failure.h"
#include "metal/passes.h"

namespace moeflux::metal {
namespace {

bool is_over(id<MTLCommandBuffer> commands) {
  const MTLCommandBufferStatus status = [commands status];
  return status == MTLCommandBufferStatusCompleted || status == MTLCommandBufferStatusError;
}

objc_ptr<id<MTLCommandBuffer>> make_commands(id<MTLCommandQueue> queue, Step step, const std::string& label) {
  const auto descriptor = objc_ptr<MTLCommandBufferDescriptor*>::adopt([[MTLCommandBufferDescriptor alloc] init]);
  [descriptor.get() setRetainedReferences:YES];
  // Names the pass that failed.
  [descriptor.get() setErrorOptions:MTLCommandBufferErrorOptionEncoderExecutionStatus];
  auto commands = objc_ptr<id<MTLCommandBuffer>>::retain([queue commandBufferWithDescriptor:descriptor.get()]);
  if (!commands) throw DeviceError("the device gave no command buffer for '" + label + "'");
  const std::string place = "position " + std::to_string(step.position) + ", n_tokens " + std::to_string(step.n_tokens);
  [commands.get() setLabel:string_of(label.empty() ? place : label + ", " + place)];
  return commands;
}

}  // namespace

void Submission::settle(const std::string& label) {
  if (const std::optional<CommandBufferError> failure = failure_of(commands_.get(), label)) {
    failure_ = std::make_shared<const CommandBufferError>(*failure);
  }
  seconds_ = std::max(0.0, [commands_.get() GPUEndTime] - [commands_.get() GPUStartTime]);
  if (pass_timings_) timings_ = pass_timings_->resolve();
  pass_timings_.reset();
  commands_.reset();
  list_ = CommandList();
  settled_ = true;
}

Submissions::~Submissions() { drain(); }

std::shared_ptr<Submission> Submissions::submit(CommandList& list, Step step, const std::string& label, bool timed) {
  objects_->check_process();
  const AutoreleasePool pool;
  auto commands = make_commands(objects_->queue.get(), step, label);
  std::unique_ptr<PassTimings> timings;
  if (timed) timings = PassTimings::make(objects_->device.get(), count_passes(list.commands()));
  Passes(commands, step, label, timings.get()).encode(list.commands());
  objects_->residency.apply();

  const std::lock_guard lock(mutex_);
  while (!pending_.empty() && is_over(pending_.front().submission->commands().get())) settle_first();
  if (timings) timings->start();
  std::shared_ptr<Submission> submission =
      make_process_owned<Submission>(std::move(list), std::move(commands), std::move(timings));
  pending_.push_back({submission, label});
  [submission->commands().get() commit];
  return submission;
}

void Submissions::wait(const std::shared_ptr<Submission>& submission) {
  objects_->check_process();
  settle(*submission);
  std::shared_ptr<const CommandBufferError> failure;
  {
    const std::lock_guard lock(mutex_);
    if (submission->failure() == unreported_ || !submission->failure()) {
      if (unreported_) submission->inherit(std::move(unreported_));
      unreported_.reset();
    }
    failure = submission->failure();
  }
  if (failure) throw CommandBufferError(*failure);
}

bool Submissions::finished(const Submission& submission) {
  const AutoreleasePool pool;
  const std::lock_guard lock(mutex_);
  return submission.settled() || is_over(submission.commands().get());
}

void Submissions::settle(const Submission& submission) {
  while (!submission.settled() && settle_oldest()) continue;
}

void Submissions::drain() {
  while (settle_oldest()) continue;
}

bool Submissions::settle_oldest() {
  const AutoreleasePool pool;
  objc_ptr<id<MTLCommandBuffer>> oldest;
  {
    const std::lock_guard lock(mutex_);
    if (pending_.empty()) return false;
    oldest = pending_.front().submission->commands();
  }
  [oldest.get() waitUntilCompleted];
  const std::lock_guard lock(mutex_);
  // Another thread may have waited for the same.
  if (!pending_.empty() && pending_.front().submission->commands().get() == oldest.get()) settle_first();
  return true;
}

void Submissions::settle_first() {
  Submission& submission = *pending_.front().submission;
  submission.settle(pending_.front().label);
  if (submission.failure() && !unreported_) unreported_ = submission.failure();
  pending_.pop_front();
}

}  // namespace moeflux::metal
