#include "metal/capture.h"

#include "error.h"
#include "metal/autorelease_pool.h"
#include "metal/failure.h"

namespace moeflux::metal {

Capture::~Capture() {
  if (started_) stop();
}

bool Capture::supported() const {
  submissions_.objects().check_process();
  const AutoreleasePool pool;
  return [[MTLCaptureManager sharedCaptureManager] supportsDestination:MTLCaptureDestinationGPUTraceDocument];
}

bool Capture::is_capturing() const {
  submissions_.objects().check_process();
  const AutoreleasePool pool;
  return [[MTLCaptureManager sharedCaptureManager] isCapturing];
}

void Capture::start(const std::string& path, CaptureTarget target) {
  const AutoreleasePool pool;
  const std::string what = "cannot capture a GPU trace to " + path;
  if (!supported()) {
    throw CaptureError(what + ": set MTL_CAPTURE_ENABLED=1 (before macOS 14: METAL_CAPTURE_ENABLED=1) before the start",
                       CaptureFailure::unsupported);
  }
  if (is_capturing()) throw CaptureError(what + ": another capture is under way", CaptureFailure::already_capturing);
  const auto descriptor = objc_ptr<MTLCaptureDescriptor*>::adopt([[MTLCaptureDescriptor alloc] init]);
  [descriptor.get() setDestination:MTLCaptureDestinationGPUTraceDocument];
  [descriptor.get() setOutputURL:[NSURL fileURLWithPath:string_of(path)]];
  switch (target) {
    case CaptureTarget::device:
      [descriptor.get() setCaptureObject:submissions_.objects().device.get()];
      break;
    case CaptureTarget::queue:
      [descriptor.get() setCaptureObject:submissions_.objects().queue.get()];
      break;
    case CaptureTarget::scope:
      [descriptor.get() setCaptureObject:scope()];
      break;
  }
  NSError* error = nil;
  if (![[MTLCaptureManager sharedCaptureManager] startCaptureWithDescriptor:descriptor.get() error:&error]) {
    throw capture_error(what, error);
  }
  started_ = true;
}

void Capture::stop() {
  if (!is_capturing()) return;
  submissions_.drain();
  const AutoreleasePool pool;
  [[MTLCaptureManager sharedCaptureManager] stopCapture];
  started_ = false;
}

void Capture::begin_scope() {
  submissions_.objects().check_process();
  const AutoreleasePool pool;
  [scope() beginScope];
}

void Capture::end_scope() {
  submissions_.objects().check_process();
  const AutoreleasePool pool;
  [scope() endScope];
}

id<MTLCaptureScope> Capture::scope() {
  if (!scope_) {
    scope_ = objc_ptr<id<MTLCaptureScope>>::adopt(
        [[MTLCaptureManager sharedCaptureManager] newCaptureScopeWithCommandQueue:submissions_.objects().queue.get()]);
    [scope_.get() setLabel:@"moeflux"];
  }
  return scope_.get();
}

}  // namespace moeflux::metal
