// What tests of reads have in common: a file of known bytes, and a barrier that holds reads up.
#pragma once
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "backends.h"
#include "read_faults.h"
#include "read_pool.h"

namespace moeflux::test {

constexpr std::size_t kFileNbytes = 300000;

// A file, and a buffer as large.
struct FileAndBuffer {
  TemporaryFile temporary{kFileNbytes};
  std::shared_ptr<File> file = std::make_shared<File>(temporary.path(), false);
  Buffer buffer = open_device("cpu", {.n_threads = 1})->buffer(kFileNbytes, false);

  ReadRange range(std::uint64_t offset, std::uint64_t nbytes, std::uint64_t buffer_offset = 0) const {
    return {file, offset, nbytes, buffer_offset};
  }
  bool holds(std::size_t buffer_offset, std::size_t file_offset, std::size_t nbytes) const {
    for (std::size_t i = 0; i < nbytes; ++i) {
      if (buffer.address()[buffer_offset + i] != TemporaryFile::expected(file_offset + i)) return false;
    }
    return true;
  }
};

// Holds up every reading thread in pread() until opened, and notes the offsets in the order of their arrival.
struct ReadBarrier {
  std::mutex mutex;
  std::vector<off_t> offsets;
  std::atomic<bool> open{false};

  ReadFault operator()(const ReadCall& call) {
    {
      const std::lock_guard lock(mutex);
      offsets.push_back(call.offset);
    }
    while (!open) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return {};
  }
  void wait_for_arrivals(std::size_t n_wanted) {
    for (;;) {
      {
        const std::lock_guard lock(mutex);
        if (offsets.size() >= n_wanted) return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
};

inline ReadHook through(ReadBarrier& barrier) {
  return [&barrier](const ReadCall& call) { return barrier(call); };
}

}  // namespace moeflux::test
