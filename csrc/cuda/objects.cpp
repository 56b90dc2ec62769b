#include "cuda/objects.h"

#include <thread>

#include "cuda/transfer.h"
#include "error.h"

namespace moeflux::cuda {
namespace {

using Clock = std::chrono::steady_clock;

// Layers of a token end within this; what takes longer is asked for less often.
constexpr std::chrono::milliseconds kSpinTime{2};
constexpr std::chrono::microseconds kPause{50};
// Of the time that a whole expert takes, a part.
constexpr std::chrono::microseconds kCopyPause{10};

}  // namespace

DeviceObjects::DeviceObjects(std::shared_ptr<const Driver> driver, int device, double longest_wait_seconds)
    : driver_(std::move(driver)), device_(device), longest_wait_seconds_(longest_wait_seconds) {
  driver_->check(call().context_retain(&context_, device_), "the GPU gave no context");
  try {
    const ContextScope scope(*this);
    driver_->check(call().stream_create(&commands_, kStreamNonBlocking), "the GPU gave no stream");
    driver_->check(call().stream_create(&copies_, kStreamNonBlocking), "the GPU gave no stream");
  } catch (...) {
    call().context_release(device_);
    throw;
  }
}

DeviceObjects::~DeviceObjects() {
  lanes_.clear();
  {
    const ReleaseScope scope(*this);
    if (!scope.usable()) return;
    for (const EventHandle event : events_) call().event_destroy(event);
    call().stream_destroy(commands_);
    call().stream_destroy(copies_);
  }
  call().context_release(device_);
}

template <typename Query>
Result DeviceObjects::poll(const Query& query, std::chrono::microseconds spin_time, std::chrono::microseconds pause) {
  const Clock::time_point start = Clock::now();
  for (;;) {
    if (lost()) return lost_;
    const Result result = query();
    if (result != kNotReady) return result;
    const Clock::duration waited = Clock::now() - start;
    if (std::chrono::duration<double>(waited).count() > longest_wait_seconds_) {
      lost_ = kLaunchTimeout;
    } else if (waited < spin_time) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(pause);
    }
  }
}

Result DeviceObjects::wait(EventHandle event) {
  return poll([&] { return call().event_query(event); }, kSpinTime, kPause);
}

Result DeviceObjects::wait_for_copy(EventHandle event) {
  return poll([&] { return call().event_query(event); }, {}, kCopyPause);
}

void DeviceObjects::drain(StreamHandle stream) {
  const Result result = poll([&] { return call().stream_query(stream); }, kSpinTime, kPause);
  Result not_lost = kSuccess;
  if (result != kSuccess) lost_.compare_exchange_strong(not_lost, result);
}

void DeviceObjects::finish_copies(const std::string& what) {
  try {
    const Event end(*this);
    driver_->check(call().event_record(end.get(), copies_), what);
    driver_->check(wait(end.get()), what);
  } catch (const DeviceError&) {
    drain(copies_);  // the caller is about to free what is copied
    throw;
  }
}

EventHandle DeviceObjects::take_event() {
  const std::lock_guard lock(events_mutex_);
  EventHandle event = nullptr;
  if (events_.empty()) {
    driver_->check(call().event_create(&event, 0), "the GPU gave no event");
  } else {
    event = events_.back();
    events_.pop_back();
  }
  return event;
}

void DeviceObjects::put_event(EventHandle event) {
  const std::lock_guard lock(events_mutex_);
  events_.push_back(event);
}

std::unique_ptr<StagingLane> DeviceObjects::take_lane() {
  const std::lock_guard lock(lanes_mutex_);
  if (lanes_.empty()) return std::make_unique<StagingLane>(*this);
  std::unique_ptr<StagingLane> lane = std::move(lanes_.back());
  lanes_.pop_back();
  return lane;
}

void DeviceObjects::put_lane(std::unique_ptr<StagingLane> lane) {
  const std::lock_guard lock(lanes_mutex_);
  lanes_.push_back(std::move(lane));
}

ContextScope::ContextScope(const DeviceObjects& objects) : objects_(objects) {
  objects.check_process();
  objects.driver().check(objects.call().context_push(objects.context()), "the GPU's context");
}

ContextScope::~ContextScope() {
  ContextHandle popped = nullptr;
  objects_.call().context_pop(&popped);
}

ReleaseScope::ReleaseScope(const DeviceObjects& objects)
    : objects_(objects), usable_(!objects.lost() && objects.call().context_push(objects.context()) == kSuccess) {}

ReleaseScope::~ReleaseScope() {
  ContextHandle popped = nullptr;
  if (usable_) objects_.call().context_pop(&popped);
}

}  // namespace moeflux::cuda
