// A pread() that counts calls and injects faults under File, and a file to read. One read_faults.cpp per test program.
#pragma once
#include <sys/types.h>

#include <cstddef>
#include <functional>
#include <string>

namespace moeflux::test {

struct ReadCall {
  std::size_t number;  // counts from 0
  std::size_t nbytes;
  off_t offset;
};

// What a call is to do instead of reading: fail with `error_number`, or read at most `limit` bytes.
struct ReadFault {
  int error_number = 0;
  std::size_t limit = SIZE_MAX;
};

using ReadHook = std::function<ReadFault(const ReadCall&)>;

// Installs a hook for every pread() of this program until destroyed. It may block, which holds up the reading thread.
class ReadFaults {
 public:
  explicit ReadFaults(ReadHook hook);
  ~ReadFaults();
  ReadFaults(const ReadFaults&) = delete;
  ReadFaults& operator=(const ReadFaults&) = delete;

  std::size_t n_calls() const;
};

// A file of `nbytes` patterned bytes in a folder for temporary files, removed when destroyed.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::size_t nbytes);
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const std::string& path() const { return path_; }
  static std::byte expected(std::size_t offset);

 private:
  std::string path_;
};

}  // namespace moeflux::test
