#include "metal/failure.h"

#include "metal/autorelease_pool.h"

namespace moeflux::metal {
namespace {

// Not in the headers: the system ended work that kept it from drawing.
constexpr NSInteger kImpactingInteractivity = 0xe;

CommandFailure failure_kind(NSInteger code) {
  switch (code) {
    case MTLCommandBufferErrorOutOfMemory:
      return CommandFailure::out_of_memory;
    case MTLCommandBufferErrorTimeout:
    case kImpactingInteractivity:
      return CommandFailure::timeout;
    case MTLCommandBufferErrorPageFault:
      return CommandFailure::page_fault;
    case MTLCommandBufferErrorAccessRevoked:
    case MTLCommandBufferErrorNotPermitted:
      return CommandFailure::access_revoked;
    case MTLCommandBufferErrorInvalidResource:
      return CommandFailure::invalid_resource;
    case MTLCommandBufferErrorDeviceRemoved:
      return CommandFailure::device_removed;
    default:
      return CommandFailure::other;
  }
}

std::string state_name(MTLCommandEncoderErrorState state) {
  switch (state) {
    case MTLCommandEncoderErrorStateCompleted:
      return "completed";
    case MTLCommandEncoderErrorStateAffected:
      return "affected";
    case MTLCommandEncoderErrorStatePending:
      return "pending";
    case MTLCommandEncoderErrorStateFaulted:
      return "faulted";
    default:
      return "unknown";
  }
}

std::vector<EncoderState> encoder_states(NSError* error) {
  std::vector<EncoderState> states;
  NSArray* infos = [[error userInfo] objectForKey:MTLCommandBufferEncoderInfoErrorKey];
  for (NSUInteger i = 0; i < [infos count]; ++i) {
    const id<MTLCommandBufferEncoderInfo> info = [infos objectAtIndex:i];
    states.push_back({text_of([info label]), state_name([info errorState])});
  }
  return states;
}

}  // namespace

std::string text_of(NSString* string) {
  const char* text = string == nil ? nullptr : [string UTF8String];
  return text == nullptr ? "" : text;
}

NSString* string_of(const std::string& text) {
  NSString* string = [NSString stringWithUTF8String:text.c_str()];
  return string == nil ? [NSString string] : string;
}

std::string reason_of(NSError* error) {
  const std::string reason = error == nil ? "" : text_of([error localizedDescription]);
  return reason.empty() ? "Metal gave no reason" : reason;
}

std::optional<CommandBufferError> failure_of(id<MTLCommandBuffer> commands, const std::string& label) {
  const AutoreleasePool pool;
  const MTLCommandBufferStatus status = [commands status];
  if (status == MTLCommandBufferStatusCompleted) return {};
  NSError* cause = [commands error];
  const NSInteger code = cause == nil ? 0 : [cause code];
  std::vector<EncoderState> encoders = encoder_states(cause);
  std::string what = "command buffer '" + label + "': " + reason_of(cause) + " (code " + std::to_string(code) +
                     ", status " + std::to_string(static_cast<unsigned long>(status)) + ")";
  for (const EncoderState& encoder : encoders) what += "; encoder '" + encoder.label + "' " + encoder.state;
  CommandBufferError error(what, failure_kind(code), label);
  error.domain = cause == nil ? "" : text_of([cause domain]);
  error.code = code;
  error.encoders = std::move(encoders);
  return error;
}

CaptureError capture_error(const std::string& what, NSError* error) {
  const NSInteger code = error == nil ? 0 : [error code];
  CaptureFailure failure = CaptureFailure::other;
  if (code == MTLCaptureErrorNotSupported) failure = CaptureFailure::unsupported;
  if (code == MTLCaptureErrorAlreadyCapturing) failure = CaptureFailure::already_capturing;
  return CaptureError(what + ": " + reason_of(error) + " (code " + std::to_string(code) + ")", failure);
}

}  // namespace moeflux::metal
