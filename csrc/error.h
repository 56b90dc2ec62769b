// Exception types of the native core; bindings.cpp maps each to the Python class of the same name in moeflux.errors.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

namespace moeflux {

// A device refused or failed: unknown kernel, bad dispatch, failed command buffer.
struct DeviceError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// No room for a buffer of `nbytes`; a MemoryError as well in Python.
struct OutOfMemoryError : DeviceError {
  OutOfMemoryError(const std::string& what, std::uint64_t nbytes) : DeviceError(what), nbytes(nbytes) {}
  std::uint64_t nbytes;
};

// A positioned read failed or came short; `error_number` is 0 for a short read.
struct ReadError : std::runtime_error {
  ReadError(std::string path, std::uint64_t offset, std::uint64_t wanted, std::uint64_t got, int error_number);
  std::string path;
  std::uint64_t offset;
  std::uint64_t wanted;
  std::uint64_t got;
  int error_number;

 protected:
  ReadError(const std::string& message, std::string path, std::uint64_t offset, std::uint64_t wanted, std::uint64_t got,
            int error_number);
};

// A read did not finish within the time allowed; names the first range that is still missing.
struct ReadTimeoutError : ReadError {
  ReadTimeoutError(std::string path, std::uint64_t offset, std::uint64_t wanted, double timeout_seconds);
};

// All bytes arrived but are not those whose checksum is known; names the first range.
struct ChecksumError : ReadError {
  ChecksumError(std::string path, std::uint64_t offset, std::uint64_t nbytes, std::uint32_t wanted_checksum,
                std::uint32_t got_checksum);
  std::uint32_t wanted_checksum;
  std::uint32_t got_checksum;
};

// The read was cancelled before every byte arrived.
struct ReadCancelled : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A file cannot be opened or mapped; in Python the OSError of `error_number` (FileNotFoundError, PermissionError, ...).
struct FileError : std::runtime_error {
  FileError(std::string path, int error_number);
  std::string path;
  std::string reason;
  int error_number;
};

}  // namespace moeflux
