#include "cuda/failure.h"

namespace moeflux::cuda {
namespace {

CommandFailure failure_kind(Result result) {
  switch (result) {
    case kOutOfMemory:
      return CommandFailure::out_of_memory;
    case kLaunchTimeout:
      return CommandFailure::timeout;
    case kIllegalAddress:
    case kMisalignedAddress:
    case kInvalidAddressSpace:
      return CommandFailure::page_fault;
    case kDeviceUnavailable:
    case kNotPermitted:
    case kSystemNotReady:
      return CommandFailure::access_revoked;
    case kInvalidContext:
    case kInvalidHandle:
    case kContextIsDestroyed:
      return CommandFailure::invalid_resource;
    case kDeinitialized:
    case kNoDevice:
    case kUncorrectableMemory:
    case kExternalDevice:
      return CommandFailure::device_removed;
    default:
      return CommandFailure::other;
  }
}

}  // namespace

CommandBufferError command_error(const Driver& driver, Result result, const std::string& label) {
  CommandBufferError error("command buffer '" + label + "': " + driver.text_of(result), failure_kind(result), label);
  error.domain = "CUDA";
  error.code = result;
  return error;
}

void check_allocation(const Driver& driver, Result result, std::size_t nbytes) {
  const std::string what = "no room for a buffer of " + std::to_string(nbytes) + " bytes";
  if (result == kOutOfMemory) throw OutOfMemoryError(what + ": " + driver.text_of(result), nbytes);
  driver.check(result, what);
}

}  // namespace moeflux::cuda
