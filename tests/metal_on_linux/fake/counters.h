// Samples of the fake GPU's clock.
#pragma once
#include <atomic>
#include <vector>

#import "fake.h"

@interface FakeCounterSet : FakeObject <MTLCounterSet> {
 @public
  NSString* setName;
}
@end

@interface FakeCounterSampleBuffer : FakeObject <MTLCounterSampleBuffer> {
 @public
  std::vector<uint64_t> samples;
  std::atomic<int> writers;  // committed passes that have not finished
}
@end

namespace fake {

NSArray* counter_sets();
FakeCounterSampleBuffer* new_sample_buffer(MTLCounterSampleBufferDescriptor* descriptor, NSError** error);
// Committed passes that write the samples: more by `change`. nil: none.
void add_writers(FakeSampleAttachment* attachment, int change);
// Notes the time at the start or the end of a pass; nil: it is not sampled.
void sample(FakeSampleAttachment* attachment, bool at_end);

}  // namespace fake
