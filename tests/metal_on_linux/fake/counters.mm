#import "counters.h"

NSString* const MTLCommonCounterSetTimestamp = @"timestamp";
NSString* const MTLCounterErrorDomain = @"MTLCounterErrorDomain";

namespace fake {

NSArray* counter_sets() {
  NSMutableArray* sets = [NSMutableArray array];
  for (NSString* name : {@"stageutilization", MTLCommonCounterSetTimestamp}) {
    if (get("no_timestamp_counters") && name == MTLCommonCounterSetTimestamp) continue;
    FakeCounterSet* set = [[[FakeCounterSet alloc] init] autorelease];
    set->setName = name;
    [sets addObject:set];
  }
  return sets;
}

FakeCounterSampleBuffer* new_sample_buffer(MTLCounterSampleBufferDescriptor* descriptor, NSError** error) {
  if (![[descriptor->counterSet name] isEqualToString:MTLCommonCounterSetTimestamp]) misuse("not the timestamp set");
  if (descriptor->sampleCount == 0 || descriptor->sampleCount > 4096) misuse("a sample buffer beyond 32 KiB");
  if (take("sample_buffer_errors")) {
    if (error) *error = make_error(MTLCounterErrorDomain, 0, "injected sample buffer error");
    return nil;
  }
  FakeCounterSampleBuffer* buffer = [[FakeCounterSampleBuffer alloc] init];
  buffer->samples.assign(descriptor->sampleCount, MTLCounterErrorValue);
  return buffer;
}

void add_writers(FakeSampleAttachment* attachment, int change) {
  if (attachment == nil || attachment->sampleBuffer == nil) return;
  static_cast<FakeCounterSampleBuffer*>(attachment->sampleBuffer)->writers += change;
}

void sample(FakeSampleAttachment* attachment, bool at_end) {
  if (attachment == nil || attachment->sampleBuffer == nil) return;
  auto* buffer = static_cast<FakeCounterSampleBuffer*>(attachment->sampleBuffer);
  buffer->samples.at(at_end ? attachment->end : attachment->start) = gpu_ticks();
}

}  // namespace fake

@implementation FakeCounterSet
- (NSString*)name {
  return setName;
}
@end

@implementation FakeCounterSampleBuffer
- (NSData*)resolveCounterRange:(NSRange)range {
  if (range.location + range.length > samples.size()) fake::misuse("samples beyond the end of their buffer");
  if (writers != 0) fake::misuse("samples are resolved while work that writes them is in flight");
  return [NSData dataWithBytes:samples.data() + range.location length:range.length * sizeof(uint64_t)];
}
@end

@implementation MTLCounterSampleBufferDescriptor
- (void)setCounterSet:(id<MTLCounterSet>)set {
  [set retain];
  [counterSet release];
  counterSet = set;
}
- (void)setStorageMode:(MTLStorageMode)mode {
  storageMode = mode;
}
- (void)setSampleCount:(NSUInteger)count {
  sampleCount = count;
}
- (void)dealloc {
  [counterSet release];
  [super dealloc];
}
@end

@implementation FakeSampleAttachment
- (void)setSampleBuffer:(id<MTLCounterSampleBuffer>)buffer {
  [buffer retain];
  [sampleBuffer release];
  sampleBuffer = buffer;
}
- (void)setStartOfEncoderSampleIndex:(NSUInteger)index {
  start = index;
}
- (void)setEndOfEncoderSampleIndex:(NSUInteger)index {
  end = index;
}
- (void)dealloc {
  [sampleBuffer release];
  [super dealloc];
}
@end

@implementation MTLComputePassSampleBufferAttachmentDescriptor
@end

@implementation MTLBlitPassSampleBufferAttachmentDescriptor
@end

@implementation MTLComputePassSampleBufferAttachmentDescriptorArray
- (id)init {
  if ((self = [super init])) first = [[MTLComputePassSampleBufferAttachmentDescriptor alloc] init];
  return self;
}
- (MTLComputePassSampleBufferAttachmentDescriptor*)objectAtIndexedSubscript:(NSUInteger)index {
  if (index != 0) fake::misuse("the fake has one sample attachment");
  return first;
}
- (void)dealloc {
  [first release];
  [super dealloc];
}
@end

@implementation MTLBlitPassSampleBufferAttachmentDescriptorArray
- (id)init {
  if ((self = [super init])) first = [[MTLBlitPassSampleBufferAttachmentDescriptor alloc] init];
  return self;
}
- (MTLBlitPassSampleBufferAttachmentDescriptor*)objectAtIndexedSubscript:(NSUInteger)index {
  if (index != 0) fake::misuse("the fake has one sample attachment");
  return first;
}
- (void)dealloc {
  [first release];
  [super dealloc];
}
@end

@implementation MTLComputePassDescriptor
+ (MTLComputePassDescriptor*)computePassDescriptor {
  MTLComputePassDescriptor* pass = [[[MTLComputePassDescriptor alloc] init] autorelease];
  pass->attachments = [[MTLComputePassSampleBufferAttachmentDescriptorArray alloc] init];
  return pass;
}
- (MTLComputePassSampleBufferAttachmentDescriptorArray*)sampleBufferAttachments {
  return attachments;
}
- (void)dealloc {
  [attachments release];
  [super dealloc];
}
@end

@implementation MTLBlitPassDescriptor
+ (MTLBlitPassDescriptor*)blitPassDescriptor {
  MTLBlitPassDescriptor* pass = [[[MTLBlitPassDescriptor alloc] init] autorelease];
  pass->attachments = [[MTLBlitPassSampleBufferAttachmentDescriptorArray alloc] init];
  return pass;
}
- (MTLBlitPassSampleBufferAttachmentDescriptorArray*)sampleBufferAttachments {
  return attachments;
}
- (void)dealloc {
  [attachments release];
  [super dealloc];
}
@end
