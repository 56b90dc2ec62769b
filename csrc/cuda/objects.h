// What everything that a CUDA device makes has in common: driver, context, streams, and waiting with an end.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cuda/driver.h"
#include "thread.h"

namespace moeflux::cuda {

class StagingLane;

// The primary context of one GPU, shared with other users of CUDA in this process, and two streams: command buffers
// run on one, copies of new bytes on the other.
class DeviceObjects {
 public:
  // `longest_wait_seconds`: after that, work that has not ended counts as lost. Throws DeviceError.
  DeviceObjects(std::shared_ptr<const Driver> driver, int device, double longest_wait_seconds);
  ~DeviceObjects();
  DeviceObjects(const DeviceObjects&) = delete;
  DeviceObjects& operator=(const DeviceObjects&) = delete;

  // Throws DeviceError in a forked child, where CUDA does not work.
  void check_process() const { owner_.check("the cuda device"); }
  const Driver& driver() const { return *driver_; }
  const DriverFunctions& call() const { return driver_->call(); }
  int device() const { return device_; }
  ContextHandle context() const { return context_; }
  StreamHandle commands() const { return commands_; }
  StreamHandle copies() const { return copies_; }

  // Blocks until the event has happened and gives what it gave: an error of the work before it, or kLaunchTimeout
  // after the longest wait. From then on the device counts as lost, and nothing waits for it any more: all waits give
  // what it was lost by.
  Result wait(EventHandle event);
  // The same for copies, of which many threads wait: asks rarely, since each question holds up other calls.
  Result wait_for_copy(EventHandle event);
  // Blocks until nothing is under way on a stream whose events cannot tell it. A device that cannot tell either counts
  // as lost, since what it writes to or reads from could not be used again.
  void drain(StreamHandle stream);
  bool lost() const { return lost_ != kSuccess; }
  Result lost_by() const { return lost_; }
  // Blocks until what is queued on `copies` so far has ended. Throws DeviceError.
  void finish_copies(const std::string& what);

  void count(std::int64_t nbytes) { allocated_nbytes_ += nbytes; }
  std::uint64_t allocated_nbytes() const { return static_cast<std::uint64_t>(allocated_nbytes_.load()); }

  // Events that nobody uses are kept for the next. Throws DeviceError.
  EventHandle take_event();
  void put_event(EventHandle event);
  // So are lanes.
  std::unique_ptr<StagingLane> take_lane();
  void put_lane(std::unique_ptr<StagingLane> lane);

 private:
  // Asks until the answer is not kNotReady, at most for the longest wait; with pauses once `spin_time` is over.
  template <typename Query>
  Result poll(const Query& query, std::chrono::microseconds spin_time, std::chrono::microseconds pause);

  OwnerProcess owner_;
  std::shared_ptr<const Driver> driver_;
  int device_;
  double longest_wait_seconds_;
  ContextHandle context_ = nullptr;
  StreamHandle commands_ = nullptr;
  StreamHandle copies_ = nullptr;
  std::atomic<Result> lost_{kSuccess};
  std::atomic<std::int64_t> allocated_nbytes_{0};
  std::mutex events_mutex_;
  std::vector<EventHandle> events_;
  std::mutex lanes_mutex_;
  std::vector<std::unique_ptr<StagingLane>> lanes_;
};

// Makes the device's context that of the calling thread until destroyed. Every entry point has one.
class ContextScope {
 public:
  // Throws DeviceError.
  explicit ContextScope(const DeviceObjects& objects);
  ~ContextScope();
  ContextScope(const ContextScope&) = delete;
  ContextScope& operator=(const ContextScope&) = delete;

 private:
  const DeviceObjects& objects_;
};

// The same for destructors, which throw nothing. Not usable on a lost device: giving something back would wait for it.
class ReleaseScope {
 public:
  explicit ReleaseScope(const DeviceObjects& objects);
  ~ReleaseScope();
  ReleaseScope(const ReleaseScope&) = delete;
  ReleaseScope& operator=(const ReleaseScope&) = delete;

  bool usable() const { return usable_; }

 private:
  const DeviceObjects& objects_;
  bool usable_;
};

// A moment in a stream.
class Event {
 public:
  // Throws DeviceError.
  explicit Event(DeviceObjects& objects) : objects_(&objects), handle_(objects.take_event()) {}
  ~Event() {
    if (handle_ != nullptr) objects_->put_event(handle_);
  }
  Event(Event&& other) noexcept : objects_(other.objects_), handle_(other.handle_) { other.handle_ = nullptr; }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  EventHandle get() const { return handle_; }

 private:
  DeviceObjects* objects_;
  EventHandle handle_;
};

}  // namespace moeflux::cuda
