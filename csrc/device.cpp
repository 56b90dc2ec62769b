// What devices do that cannot capture GPU traces.
#include "device.h"

#include "error.h"

namespace moeflux {

void Device::start_capture(const std::string& path, CaptureTarget) {
  throw CaptureError("the " + name() + " device cannot capture a GPU trace to " + path, CaptureFailure::unsupported);
}

}  // namespace moeflux
