// Has the system put memory behind anonymous pages ahead of their first use, which would wait for it.
#pragma once
#include <atomic>
#include <cstddef>
#include <thread>

#include "thread.h"

namespace moeflux {

// Works through a range from its beginning, on a thread of its own, until done or destroyed. Changes no byte. Where the
// system has no such call, or no memory left, the pages come at their first use as ever.
class Population {
 public:
  Population(std::byte* address, std::size_t nbytes);
  ~Population();
  Population(const Population&) = delete;
  Population& operator=(const Population&) = delete;

 private:
  std::atomic<bool> stopped_{false};
  std::thread thread_;
};

}  // namespace moeflux
