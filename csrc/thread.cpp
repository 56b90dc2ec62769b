#include "thread.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include <string>
#include <system_error>

#include "error.h"

namespace moeflux {
namespace {

// Blocks asynchronous signals for the calling thread, and so for the threads that it starts, until destroyed.
class SignalBlock {
 public:
  SignalBlock() {
    sigset_t blocked;
    sigfillset(&blocked);
    // Faults belong to the thread that causes them, and profilers sample every thread.
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGPROF}) sigdelset(&blocked, fault);
    pthread_sigmask(SIG_BLOCK, &blocked, &previous_);
  }
  ~SignalBlock() { pthread_sigmask(SIG_SETMASK, &previous_, nullptr); }
  SignalBlock(const SignalBlock&) = delete;
  SignalBlock& operator=(const SignalBlock&) = delete;

 private:
  sigset_t previous_;
};

// Linux lets short sleeps of a thread last 50 us longer unless told otherwise.
void end_sleeps_on_time() {
#ifdef __linux__
  constexpr unsigned long kSlackNanoseconds = 1000;
  prctl(PR_SET_TIMERSLACK, kSlackNanoseconds, 0, 0, 0);
#endif
}

}  // namespace

std::thread start_thread(std::function<void()> body) {
  const SignalBlock block;
  try {
    return std::thread([body = std::move(body)] {
      end_sleeps_on_time();
      body();
    });
  } catch (const std::system_error& error) {
    throw DeviceError(std::string("cannot start a thread: ") + error.what());
  }
}

OwnerProcess::OwnerProcess() : process_(getpid()) {}

bool OwnerProcess::is_current() const { return getpid() == process_; }

void OwnerProcess::check(std::string_view what) const {
  if (is_current()) return;
  throw DeviceError(std::string(what) + " belongs to process " + std::to_string(process_) +
                    " and its threads do not exist in this forked process; open devices and read pools after the fork");
}

}  // namespace moeflux
