#include "cuda/command.h"

#include <algorithm>
#include <utility>

#include "cuda/failure.h"

namespace moeflux::cuda {
namespace {

// Between two events that have happened.
double seconds_between(const DeviceObjects& objects, EventHandle begin, EventHandle end) {
  float milliseconds = 0;
  if (objects.call().event_elapsed(&milliseconds, begin, end) != kSuccess) return 0;
  return std::max(0.0, static_cast<double>(milliseconds) / 1e3);
}

}  // namespace

void Submission::keep(Marks marks, std::shared_ptr<const Submission> anchor, double lead_seconds) {
  marks_ = std::move(marks);
  anchor_ = std::move(anchor);
  lead_seconds_ = lead_seconds;
}

void Submission::refuse(const DeviceObjects& objects, Result result) {
  failure_ = std::make_shared<const CommandBufferError>(command_error(objects.driver(), result, label_));
}

void Submission::settle(const DeviceObjects& objects, Result result) {
  if (result != kSuccess) {
    if (!failure_) refuse(objects, result);
  } else {
    seconds_ = seconds_between(objects, begin_.get(), end_.get());
    timings_ = read_marks(objects);
  }
  marks_ = Marks();
  anchor_.reset();
  // A lost GPU may still use it.
  if (objects.lost()) {
    static_cast<void>(new CommandList(std::move(list_)));
  } else {
    list_ = CommandList();
  }
  settled_ = true;
}

std::vector<KernelTiming> Submission::read_marks(const DeviceObjects& objects) const {
  std::vector<KernelTiming> timings;
  if (!anchor_) return timings;
  const double begin = std::max(0.0, seconds_between(objects, anchor_->begin(), begin_.get()) - lead_seconds_);
  double previous = begin;
  for (std::size_t i = 0; i < marks_.names.size(); ++i) {
    const double end = std::max(previous, begin + seconds_between(objects, begin_.get(), marks_.ends[i].get()));
    timings.push_back({marks_.names[i], previous, end});
    previous = end;
  }
  return timings;
}

Submissions::~Submissions() {
  const ReleaseScope scope(*objects_);
  while (!pending_.empty()) settle_first(objects_->wait(pending_.front()->end()));
}

std::shared_ptr<Submission> Submissions::submit(CommandList& list, Step step, const std::string& label, bool timed) {
  const ContextScope scope(*objects_);
  if (objects_->lost()) throw command_error(objects_->driver(), objects_->lost_by(), label);
  Work work(objects_, list.commands(), step, timed ? Work::Replays::separately : Work::Replays::as_graphs);

  const std::lock_guard lock(mutex_);
  while (!pending_.empty()) {
    const Result result = objects_->call().event_query(pending_.front()->end());
    if (result == kNotReady) break;
    settle_first(result);
  }
  std::shared_ptr<Submission> submission = make_process_owned<Submission>(*objects_, std::move(list), label);
  launch(submission, work, timed);
  pending_.push_back(submission);
  return submission;
}

void Submissions::launch(const std::shared_ptr<Submission>& submission, Work& work, bool timed) {
  const DriverFunctions& call = objects_->call();
  const Clock::time_point now = Clock::now();
  Marks marks;
  Result result = call.event_record(submission->begin(), objects_->commands());
  if (pending_.empty()) {
    anchor_ = submission;
    anchored_at_ = now;
  }
  if (result == kSuccess) result = work.enqueue(timed ? &marks : nullptr);
  // The end is that of what was launched; without it nobody could tell when buffers are free.
  const Result ended = call.event_record(submission->end(), objects_->commands());
  if (result == kSuccess) result = ended;
  if (result != kSuccess) {
    submission->refuse(*objects_, result);
  } else if (timed) {
    submission->keep(std::move(marks), anchor_, std::chrono::duration<double>(now - anchored_at_).count());
  }
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

bool Submissions::is_over(const Submission& submission) const {
  return objects_->lost() || objects_->call().event_query(submission.end()) != kNotReady;
}

bool Submissions::finished(const Submission& submission) {
  objects_->check_process();
  const std::lock_guard lock(mutex_);
  if (submission.settled()) return true;
  const ContextScope scope(*objects_);
  return is_over(submission);
}

void Submissions::settle(const Submission& submission) {
  while (!submission.settled() && settle_oldest()) continue;
}

bool Submissions::settle_oldest() {
  const ContextScope scope(*objects_);
  std::shared_ptr<Submission> oldest;
  {
    const std::lock_guard lock(mutex_);
    if (pending_.empty()) return false;
    oldest = pending_.front();
  }
  const Result result = objects_->wait(oldest->end());
  const std::lock_guard lock(mutex_);
  // Another thread may have waited for the same.
  if (!pending_.empty() && pending_.front() == oldest) settle_first(result);
  return true;
}

void Submissions::settle_first(Result result) {
  Submission& submission = *pending_.front();
  submission.settle(*objects_, result);
  if (submission.failure() && !unreported_) unreported_ = submission.failure();
  pending_.pop_front();
}

}  // namespace moeflux::cuda
