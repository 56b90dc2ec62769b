// Starting native threads, and what becomes of their owners in a forked process.
#pragma once
#include <sys/types.h>

#include <functional>
#include <memory>
#include <string_view>
#include <thread>
#include <utility>

namespace moeflux {

// A thread that takes no signals, so that the interpreter's own threads do, and whose sleeps may be short. Throws
// DeviceError.
std::thread start_thread(std::function<void()> body);

// Threads do not survive fork: their owners remember the process that started them.
class OwnerProcess {
 public:
  OwnerProcess();
  // False in a forked child, where waiting for or joining the threads would never end.
  bool is_current() const;
  // Throws DeviceError naming `what` in a forked child.
  void check(std::string_view what) const;

 private:
  pid_t process_;
};

// Destroys an object that has threads or locks, but not in a forked child: there its threads cannot be joined, its
// locks may be held for ever, and its memory goes with the process.
class OwnerProcessDelete {
 public:
  template <typename T>
  void operator()(T* object) const {
    if (owner_.is_current()) std::default_delete<T>()(object);
  }

 private:
  OwnerProcess owner_;
};

template <typename T>
using ProcessOwned = std::unique_ptr<T, OwnerProcessDelete>;

template <typename T, typename... Arguments>
ProcessOwned<T> make_process_owned(Arguments&&... arguments) {
  return ProcessOwned<T>(std::make_unique<T>(std::forward<Arguments>(arguments)...).release());
}

}  // namespace moeflux
