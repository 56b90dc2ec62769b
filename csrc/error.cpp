// Messages of the exception types that carry more than a sentence.
#include "error.h"

#include <cstdio>
#include <system_error>

namespace moeflux {
namespace {

std::string read_message(const std::string& path, std::uint64_t offset, std::uint64_t wanted, std::uint64_t got,
                         const std::string& reason) {
  return "read " + std::to_string(got) + " of " + std::to_string(wanted) + " bytes at offset " +
         std::to_string(offset) + " of " + path + ": " + reason;
}

std::string checksum_reason(std::uint32_t wanted, std::uint32_t got) {
  char text[64];
  std::snprintf(text, sizeof text, "wanted checksum %08x, got %08x", wanted, got);
  return text;
}

std::string reason_of(int error_number) {
  return error_number == 0 ? "end of file" : std::generic_category().message(error_number);
}

std::string join(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text.empty() ? "none" : text;
}

}  // namespace

CompileError::CompileError(std::string source, std::string log)
    : DeviceError("shader source '" + source + "' does not compile: " + log),
      source(std::move(source)),
      log(std::move(log)) {}

KernelNotFoundError::KernelNotFoundError(std::string kernel, std::vector<std::string> available)
    : DeviceError("the device has no kernel '" + kernel + "', only " + join(available)),
      kernel(std::move(kernel)),
      available(std::move(available)) {}

PipelineError::PipelineError(std::string kernel, const std::string& reason)
    : DeviceError("kernel " + kernel + ": " + reason), kernel(std::move(kernel)) {}

ReadError::ReadError(std::string path, std::uint64_t offset, std::uint64_t wanted, std::uint64_t got, int error_number)
    : ReadError(read_message(path, offset, wanted, got, reason_of(error_number)), path, offset, wanted, got,
                error_number) {}

ReadError::ReadError(const std::string& message, std::string path, std::uint64_t offset, std::uint64_t wanted,
                     std::uint64_t got, int error_number)
    : std::runtime_error(message),
      path(std::move(path)),
      offset(offset),
      wanted(wanted),
      got(got),
      error_number(error_number) {}

ReadTimeoutError::ReadTimeoutError(std::string path, std::uint64_t offset, std::uint64_t wanted, double timeout_seconds)
    : ReadError(read_message(path, offset, wanted, 0, "not finished after " + std::to_string(timeout_seconds) + " s"),
                path, offset, wanted, 0, 0) {}

ChecksumError::ChecksumError(std::string path, std::uint64_t offset, std::uint64_t nbytes,
                             std::uint32_t wanted_checksum, std::uint32_t got_checksum)
    : ReadError(read_message(path, offset, nbytes, nbytes, checksum_reason(wanted_checksum, got_checksum)), path,
                offset, nbytes, nbytes, 0),
      wanted_checksum(wanted_checksum),
      got_checksum(got_checksum) {}

FileError::FileError(std::string path, int error_number)
    : std::runtime_error(path + ": " + std::generic_category().message(error_number)),
      path(std::move(path)),
      reason(std::generic_category().message(error_number)),
      error_number(error_number) {}

}  // namespace moeflux
