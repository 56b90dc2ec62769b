// Exception types of the native core; bindings.cpp maps each to the Python class of the same name in moeflux.errors.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

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

// This machine has no device of the backend that was asked for.
struct NoDeviceError : DeviceError {
  using DeviceError::DeviceError;
};

// The device's compiler refused the shader source of that name; `log` is what it said.
struct CompileError : DeviceError {
  CompileError(std::string source, std::string log);
  std::string source;
  std::string log;
};

// There is no such kernel; `available` are those that there are.
struct KernelNotFoundError : DeviceError {
  KernelNotFoundError(std::string kernel, std::vector<std::string> available);
  std::string kernel;
  std::vector<std::string> available;
};

// A kernel could not be specialised or does not fit the device.
struct PipelineError : DeviceError {
  PipelineError(std::string kernel, const std::string& reason);
  std::string kernel;
};

enum class CommandFailure {
  other,
  out_of_memory,
  timeout,
  page_fault,
  access_revoked,
  invalid_resource,
  device_removed,
};

// How far a part of a failed command buffer came, in the device's words: "completed", "faulted", ...
struct EncoderState {
  std::string label;
  std::string state;
};

// Committed work failed on the device; `domain` and `code` are the device's own.
struct CommandBufferError : DeviceError {
  CommandBufferError(const std::string& what, CommandFailure failure, std::string label)
      : DeviceError(what), failure(failure), label(std::move(label)) {}
  CommandFailure failure;
  std::string label;
  std::string domain;
  std::int64_t code = 0;
  std::vector<EncoderState> encoders;
};

enum class CaptureFailure { other, unsupported, already_capturing };

// A GPU trace could not be captured.
struct CaptureError : DeviceError {
  CaptureError(const std::string& what, CaptureFailure failure) : DeviceError(what), failure(failure) {}
  CaptureFailure failure;
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
