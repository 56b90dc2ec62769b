// Waiting briefly without giving up the processor.
#pragma once
#include <chrono>
#include <thread>

namespace moeflux::cpu {

inline void spin_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
}

// Longer than the host takes between two command buffers, shorter than a time slice that others would miss.
inline constexpr std::chrono::microseconds kSpinTime{50};

// Spins until ready() or for kSpinTime; gives the last answer of ready(). Yields now and then: whoever makes it ready
// may have been put on this very core.
template <typename Ready>
bool spin_until(const Ready& ready) {
  const auto give_up = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      spin_pause();
    }
    std::this_thread::yield();
  } while (std::chrono::steady_clock::now() < give_up);
  return ready();
}

}  // namespace moeflux::cpu
