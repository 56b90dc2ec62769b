// Streams of the fake driver: each a thread that does what it was given, in order.
#pragma once
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

class FakeStream {
 public:
  FakeStream() : thread_([this] { work(); }) {}
  ~FakeStream() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  void add(std::function<void()> task) {
    {
      const std::lock_guard lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    changed_.notify_all();
  }

  // Blocks until everything so far is done, or the stream hangs.
  void drain() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return hangs_ || (tasks_.empty() && !running_); });
  }

  bool idle() {
    const std::lock_guard lock(mutex_);
    return tasks_.empty() && !running_;
  }

  // A stream that hangs begins nothing more until it is told to go on.
  void hang(bool hangs) {
    {
      const std::lock_guard lock(mutex_);
      hangs_ = hangs;
    }
    changed_.notify_all();
  }
  bool hangs() {
    const std::lock_guard lock(mutex_);
    return hangs_;
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return stopping_ || (!hangs_ && !tasks_.empty()); });
      if (stopping_ && (hangs_ || tasks_.empty())) return;
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      running_ = true;
      lock.unlock();
      task();
      lock.lock();
      running_ = false;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  bool running_ = false;
  bool hangs_ = false;
  bool stopping_ = false;
  std::thread thread_;
};
