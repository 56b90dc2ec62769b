#include "population.h"

#include <sys/mman.h>

#include <algorithm>

namespace moeflux {
namespace {

constexpr std::size_t kStep = std::size_t{16} << 20;  // short enough to stop soon

bool populate(std::byte* address, std::size_t nbytes) {
#ifdef MADV_POPULATE_WRITE
  return madvise(address, nbytes, MADV_POPULATE_WRITE) == 0;
#else
  static_cast<void>(address), static_cast<void>(nbytes);
  return false;
#endif
}

}  // namespace

Population::Population(std::byte* address, std::size_t nbytes)
    : thread_(start_thread([this, address, nbytes] {
        for (std::size_t done = 0; done < nbytes && !stopped_; done += kStep) {
          if (!populate(address + done, std::min(kStep, nbytes - done))) return;
        }
      })) {}

Population::~Population() {
  stopped_ = true;
  thread_.join();
}

}  // namespace moeflux
