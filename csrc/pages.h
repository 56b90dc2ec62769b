// Anonymous memory from the kernel: zeroed, filled in when first touched.
#pragma once
#include <cstddef>

namespace moeflux {

std::size_t page_size();

inline constexpr std::size_t kHugePageSize = std::size_t{2} << 20;

// Whole pages that hold `nbytes`, aligned to 2 MiB when at least that large. Throws OutOfMemoryError.
class Pages {
 public:
  explicit Pages(std::size_t nbytes);
  ~Pages();
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;

  std::byte* address() const { return address_; }

 private:
  std::byte* address_ = nullptr;
  std::size_t mapped_nbytes_ = 0;
};

}  // namespace moeflux
