// Arithmetic of views, and the memory behind buffers.
#include <cstdint>
#include <limits>
#include <memory>
#include <stdexcept>

#include "backends.h"
#include "check.h"
#include "error.h"

using moeflux::Buffer;

namespace {

constexpr std::size_t kLargest = std::numeric_limits<std::size_t>::max();

Buffer make_buffer(std::size_t nbytes) { return moeflux::open_device("cpu", {.n_threads = 1})->buffer(nbytes, true); }

std::uintptr_t number_of(const std::byte* address) { return reinterpret_cast<std::uintptr_t>(address); }

}  // namespace

TEST(a_view_of_a_view_adds_the_offsets) {
  const Buffer buffer = make_buffer(1000);
  const Buffer view = buffer.view(100, 500).view(20, 30);
  CHECK_EQUAL(view.offset, 120u);
  CHECK_EQUAL(view.nbytes, 30u);
  CHECK(view.address() == buffer.address() + 120);
}

TEST(a_view_may_end_where_the_buffer_ends) {
  const Buffer buffer = make_buffer(1000);
  CHECK_EQUAL(buffer.view(0, 1000).nbytes, 1000u);
  CHECK_EQUAL(buffer.view(1000, 0).nbytes, 0u);
}

TEST(a_view_beyond_the_end_is_refused) {
  const Buffer buffer = make_buffer(1000);
  const std::string message = CHECK_THROWS(std::invalid_argument, buffer.view(900, 101));
  for (const char* number : {"900", "101", "1000"}) CHECK(message.find(number) != std::string::npos);
  CHECK_THROWS(std::invalid_argument, buffer.view(1001, 0));
  CHECK_THROWS(std::invalid_argument, buffer.view(100, 500).view(0, 501));
}

TEST(a_view_whose_end_overflows_is_refused) {
  const Buffer buffer = make_buffer(1000);
  CHECK_THROWS(std::invalid_argument, buffer.view(1, kLargest));
  CHECK_THROWS(std::invalid_argument, buffer.view(kLargest, 1));
  CHECK_THROWS(std::invalid_argument, buffer.view(kLargest, kLargest));
}

TEST(a_view_keeps_the_memory) {
  Buffer view = make_buffer(std::size_t{4} << 20).view(5, 1);
  *view.address() = std::byte{7};
  CHECK(*view.address() == std::byte{7});
}

TEST(buffers_are_zeroed_and_aligned) {
  constexpr std::size_t kHuge = std::size_t{2} << 20;
  for (const std::size_t nbytes : {std::size_t{1}, std::size_t{5000}, kHuge - 1, kHuge, kHuge + 1, 3 * kHuge + 12345}) {
    const Buffer buffer = make_buffer(nbytes);
    CHECK_EQUAL(number_of(buffer.address()) % (nbytes >= kHuge ? kHuge : 4096), 0u);
    CHECK_EQUAL(buffer.nbytes, nbytes);
    for (std::size_t i = 0; i < nbytes; ++i) CHECK(buffer.address()[i] == std::byte{0});
    buffer.address()[nbytes - 1] = std::byte{1};
  }
}

TEST(a_buffer_larger_than_the_address_space_is_out_of_memory) {
  for (const std::size_t nbytes : {std::size_t{1} << 60, kLargest, kLargest - 4096}) {
    try {
      make_buffer(nbytes);
      CHECK(false);
    } catch (const moeflux::OutOfMemoryError& error) {
      CHECK_EQUAL(error.nbytes, nbytes);
    }
  }
}

TEST_MAIN
