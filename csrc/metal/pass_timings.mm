#include "metal/pass_timings.h"

#include <algorithm>
#include <chrono>

#include "error.h"
#include "metal/autorelease_pool.h"
#include "metal/failure.h"

namespace moeflux::metal {
namespace {

// A sample buffer holds at most 32 KiB of 8-byte samples; a pass takes two.
constexpr std::size_t kPassesPerBlock = 2048;

id<MTLCounterSet> timestamps(id<MTLDevice> device) {
  NSArray* sets = [device counterSets];
  for (NSUInteger i = 0; i < [sets count]; ++i) {
    const id<MTLCounterSet> set = [sets objectAtIndex:i];
    if ([[set name] isEqualToString:MTLCommonCounterSetTimestamp]) return set;
  }
  return nil;
}

objc_ptr<id<MTLCounterSampleBuffer>> make_block(id<MTLDevice> device, id<MTLCounterSet> set, std::size_t n_passes) {
  const auto descriptor =
      objc_ptr<MTLCounterSampleBufferDescriptor*>::adopt([[MTLCounterSampleBufferDescriptor alloc] init]);
  [descriptor.get() setCounterSet:set];
  [descriptor.get() setStorageMode:MTLStorageModeShared];
  [descriptor.get() setSampleCount:2 * n_passes];
  NSError* error = nil;
  auto block = objc_ptr<id<MTLCounterSampleBuffer>>::adopt([device newCounterSampleBufferWithDescriptor:descriptor.get()
                                                                                                  error:&error]);
  if (!block)
    throw DeviceError("no room for the timings of " + std::to_string(n_passes) + " passes: " + reason_of(error));
  return block;
}

}  // namespace

std::unique_ptr<PassTimings> PassTimings::make(id<MTLDevice> device, std::size_t n_passes) {
  const AutoreleasePool pool;
  if (![device supportsCounterSampling:MTLCounterSamplingPointAtStageBoundary]) return nullptr;
  const id<MTLCounterSet> set = timestamps(device);
  if (set == nil) return nullptr;
  std::unique_ptr<PassTimings> timings(new PassTimings(objc_ptr<id<MTLDevice>>::retain(device)));
  for (std::size_t first = 0; first < n_passes; first += kPassesPerBlock) {
    timings->blocks_.push_back(make_block(device, set, std::min(kPassesPerBlock, n_passes - first)));
  }
  return timings;
}

PassTimings::Moment PassTimings::now() const {
  MTLTimestamp host = 0;  // its unit differs between machines, so it is not used
  MTLTimestamp ticks = 0;
  [device_.get() sampleTimestamps:&host gpuTimestamp:&ticks];
  const auto since_epoch = std::chrono::steady_clock::now().time_since_epoch();
  return {std::chrono::duration<double>(since_epoch).count(), ticks};
}

void PassTimings::attach(MTLComputePassDescriptor* pass, const std::string& kernel) {
  const std::size_t first = 2 * (names_.size() % kPassesPerBlock);
  MTLComputePassSampleBufferAttachmentDescriptor* samples = [[pass sampleBufferAttachments] objectAtIndexedSubscript:0];
  [samples setSampleBuffer:blocks_[names_.size() / kPassesPerBlock].get()];
  [samples setStartOfEncoderSampleIndex:first];
  [samples setEndOfEncoderSampleIndex:first + 1];
  names_.push_back(kernel);
}

void PassTimings::attach(MTLBlitPassDescriptor* pass, const std::string& command) {
  const std::size_t first = 2 * (names_.size() % kPassesPerBlock);
  MTLBlitPassSampleBufferAttachmentDescriptor* samples = [[pass sampleBufferAttachments] objectAtIndexedSubscript:0];
  [samples setSampleBuffer:blocks_[names_.size() / kPassesPerBlock].get()];
  [samples setStartOfEncoderSampleIndex:first];
  [samples setEndOfEncoderSampleIndex:first + 1];
  names_.push_back(command);
}

std::vector<KernelTiming> PassTimings::resolve() const {
  const AutoreleasePool pool;
  const Moment end = now();
  const double ticks = static_cast<double>(end.ticks) - static_cast<double>(begin_.ticks);
  std::vector<KernelTiming> timings;
  timings.reserve(names_.size());
  if (ticks <= 0) return timings;
  for (std::size_t block = 0; block < blocks_.size(); ++block) {
    resolve(block, (end.seconds - begin_.seconds) / ticks, timings);
  }
  return timings;
}

void PassTimings::resolve(std::size_t block, double seconds_per_tick, std::vector<KernelTiming>& timings) const {
  const std::size_t first = block * kPassesPerBlock;
  const std::size_t n_passes = std::min(kPassesPerBlock, names_.size() - std::min(first, names_.size()));
  if (n_passes == 0) return;
  NSData* data = [blocks_[block].get() resolveCounterRange:NSMakeRange(0, 2 * n_passes)];
  if (data == nil || [data length] < 2 * n_passes * sizeof(MTLCounterResultTimestamp)) return;
  const auto* samples = static_cast<const MTLCounterResultTimestamp*>([data bytes]);
  const auto seconds = [&](const MTLCounterResultTimestamp& sample) {
    return (static_cast<double>(sample.timestamp) - static_cast<double>(begin_.ticks)) * seconds_per_tick;
  };
  for (std::size_t i = 0; i < n_passes; ++i) {
    const MTLCounterResultTimestamp& begin = samples[2 * i];
    const MTLCounterResultTimestamp& end = samples[2 * i + 1];
    // A pass that did not run, after a failure for example, leaves no sample.
    if (begin.timestamp == MTLCounterErrorValue || end.timestamp == MTLCounterErrorValue) continue;
    timings.push_back({names_[first + i], seconds(begin), seconds(end)});
  }
}

}  // namespace moeflux::metal
