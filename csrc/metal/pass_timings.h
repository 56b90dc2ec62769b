// When each pass of a command buffer ran, from samples of the GPU's clock.
#pragma once
#import <Metal/Metal.h>

#include <memory>
#include <string>
#include <vector>

#include "device.h"
#include "metal/objc_ptr.h"

namespace moeflux::metal {

// Apple's GPUs sample their clock at the boundaries of passes only, so a timed kernel gets a pass of its own.
class PassTimings {
 public:
  // Null if the device cannot sample at the boundaries of passes. Throws DeviceError if it refuses the memory.
  static std::unique_ptr<PassTimings> make(id<MTLDevice> device, std::size_t n_passes);

  // The timings count from here.
  void start() { begin_ = now(); }
  // Has the next pass sampled.
  void attach(MTLComputePassDescriptor* pass, const std::string& kernel);
  void attach(MTLBlitPassDescriptor* pass, const std::string& command);
  // Reads the samples of the finished passes. The two clocks are compared at `start` and here.
  std::vector<KernelTiming> resolve() const;

 private:
  // The same moment on the host's clock, in seconds, and on the GPU's, in ticks of unknown length.
  struct Moment {
    double seconds;
    MTLTimestamp ticks;
  };

  explicit PassTimings(objc_ptr<id<MTLDevice>> device) : device_(std::move(device)) {}
  Moment now() const;
  void resolve(std::size_t block, double seconds_per_tick, std::vector<KernelTiming>& timings) const;

  objc_ptr<id<MTLDevice>> device_;
  Moment begin_{};
  std::vector<objc_ptr<id<MTLCounterSampleBuffer>>> blocks_;
  std::vector<std::string> names_;
};

}  // namespace moeflux::metal
