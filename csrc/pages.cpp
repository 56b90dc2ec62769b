#include "pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <limits>
#include <string>

#include "error.h"

namespace moeflux {

std::size_t page_size() { return static_cast<std::size_t>(sysconf(_SC_PAGESIZE)); }

Pages::Pages(std::size_t nbytes) {
  const auto fail = [nbytes] {
    throw OutOfMemoryError("no room for a buffer of " + std::to_string(nbytes) + " bytes", nbytes);
  };
  const std::size_t page = page_size();
  const bool huge = nbytes >= kHugePageSize;
  const std::size_t slack = huge ? kHugePageSize - page : 0;
  if (nbytes > std::numeric_limits<std::size_t>::max() - slack - page) fail();

  const std::size_t rounded = (nbytes + page - 1) / page * page;
  void* mapped = mmap(nullptr, rounded + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) fail();
  address_ = static_cast<std::byte*>(mapped);
  mapped_nbytes_ = rounded;
  if (!huge) return;

  const std::size_t misalignment = reinterpret_cast<std::uintptr_t>(mapped) % kHugePageSize;
  const std::size_t before = misalignment == 0 ? 0 : kHugePageSize - misalignment;
  if (before > 0) munmap(address_, before);
  address_ += before;
  if (slack > before) munmap(address_ + rounded, slack - before);
#ifdef MADV_HUGEPAGE
  // Only advice: kernels without transparent huge pages refuse it, and small pages do as well.
  madvise(address_, rounded, MADV_HUGEPAGE);
#endif
}

Pages::~Pages() { munmap(address_, mapped_nbytes_); }

}  // namespace moeflux
