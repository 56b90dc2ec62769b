// Takes the place of the C library's pread() in the program that it is linked into.
#undef _FORTIFY_SOURCE
#include "read_faults.h"

#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <vector>

namespace moeflux::test {
namespace {

std::mutex mutex;
ReadHook installed_hook;
std::size_t n_calls_seen = 0;

ReadFault fault_of(std::size_t nbytes, off_t offset) {
  ReadHook hook;
  ReadCall call{0, nbytes, offset};
  {
    const std::lock_guard lock(mutex);
    if (!installed_hook) return {};
    hook = installed_hook;
    call.number = n_calls_seen++;
  }
  return hook(call);
}

}  // namespace

ReadFaults::ReadFaults(ReadHook hook) {
  const std::lock_guard lock(mutex);
  installed_hook = std::move(hook);
  n_calls_seen = 0;
}

ReadFaults::~ReadFaults() {
  const std::lock_guard lock(mutex);
  installed_hook = nullptr;
}

std::size_t ReadFaults::n_calls() const {
  const std::lock_guard lock(mutex);
  return n_calls_seen;
}

std::byte TemporaryFile::expected(std::size_t offset) { return static_cast<std::byte>((offset * 2654435761u) >> 13); }

TemporaryFile::TemporaryFile(std::size_t nbytes) {
  path_ = (std::filesystem::temp_directory_path() / "moeflux_test_XXXXXX").native();
  const int descriptor = mkstemp(path_.data());
  if (descriptor >= 0) close(descriptor);
  std::vector<char> content(nbytes);
  for (std::size_t i = 0; i < nbytes; ++i) content[i] = static_cast<char>(expected(i));
  std::ofstream(path_, std::ios::binary).write(content.data(), static_cast<std::streamsize>(nbytes));
}

TemporaryFile::~TemporaryFile() { std::filesystem::remove(path_); }

}  // namespace moeflux::test

extern "C" __attribute__((visibility("default"))) ssize_t pread(int descriptor, void* destination, size_t nbytes,
                                                                off_t offset) {
  const moeflux::test::ReadFault fault = moeflux::test::fault_of(nbytes, offset);
  if (fault.error_number != 0) {
    errno = fault.error_number;
    return -1;
  }
  const iovec range{destination, std::min(nbytes, fault.limit)};
  return preadv(descriptor, &range, 1, offset);
}
