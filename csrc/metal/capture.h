// GPU traces of a device's work. Primitives only: what to capture, and when, is decided above.
#pragma once
#import <Metal/Metal.h>

#include <string>

#include "device.h"
#include "metal/command.h"
#include "metal/objc_ptr.h"

namespace moeflux::metal {

class Capture {
 public:
  explicit Capture(Submissions& submissions) : submissions_(submissions) {}
  // Ends a capture that this object started, so that none outlives its device.
  ~Capture();
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  bool supported() const;
  bool is_capturing() const;
  // Only what is committed from here to `stop` is in the trace. Throws CaptureError.
  void start(const std::string& path, CaptureTarget target);
  // Waits for committed work first: work in flight makes Metal's own stop fail. Does nothing without a capture.
  void stop();
  void begin_scope();
  void end_scope();

 private:
  id<MTLCaptureScope> scope();

  Submissions& submissions_;
  objc_ptr<id<MTLCaptureScope>> scope_;
  bool started_ = false;
};

}  // namespace moeflux::metal
