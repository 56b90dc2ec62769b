#import "commands.h"

#include <chrono>

#import "capture.h"
#import "counters.h"

NSString* const MTLCommandBufferErrorDomain = @"MTLCommandBufferErrorDomain";
NSString* const MTLCommandBufferEncoderInfoErrorKey = @"MTLCommandBufferEncoderInfoErrorKey";

namespace {

// How many command buffers a queue has at a time by default; asking for one more blocks.
constexpr int kQueueDepth = 64;
constexpr auto kPatience = std::chrono::seconds(10);

// A slow GPU.
void pause(const char* setting) {
  if (const std::int64_t delay = fake::get(setting)) std::this_thread::sleep_for(std::chrono::microseconds(delay));
}

// Runs what is committed until the queue is gone and nothing is left.
void work(fake::QueueState& queue) {
  GSRegisterCurrentThread();
  for (;;) {
    FakeCommandBuffer* next = nil;
    {
      std::unique_lock lock(queue.mutex);
      queue.changed.wait(lock, [&queue] { return queue.stopping || !queue.committed.empty(); });
      if (queue.committed.empty()) break;
      next = queue.committed.front();
      queue.committed.pop_front();
    }
    @autoreleasepool {
      [next execute];
      [next release];
    }
  }
  GSUnregisterCurrentThread();
}

}  // namespace

namespace fake {

void QueueState::push(FakeCommandBuffer* commands) {
  const std::lock_guard lock(mutex);
  committed.push_back([commands retain]);
  changed.notify_all();
}

void QueueState::forget() {
  const std::lock_guard lock(mutex);
  --uncompleted;
  changed.notify_all();
}

}  // namespace fake

@implementation MTLCommandBufferDescriptor
- (id)init {
  if ((self = [super init])) retainedReferences = YES;
  return self;
}
- (void)setRetainedReferences:(BOOL)retained {
  retainedReferences = retained;
}
- (void)setErrorOptions:(MTLCommandBufferErrorOption)options {
  errorOptions = options;
}
@end

@implementation FakeEncoderInfo
- (MTLCommandEncoderErrorState)errorState {
  return state;
}
@end

@implementation FakeQueue
- (id)init {
  if ((self = [super init])) {
    state = std::make_shared<fake::QueueState>();
    worker = std::thread([shared = state] { work(*shared); });
  }
  return self;
}
- (id<MTLCommandBuffer>)commandBufferWithDescriptor:(MTLCommandBufferDescriptor*)descriptor {
  if (!descriptor->retainedReferences) fake::misuse("the fake keeps references in any case");
  if (fake::take("nil_command_buffers")) return nil;
  {
    std::unique_lock lock(state->mutex);
    if (!state->changed.wait_for(lock, kPatience, [self] { return state->uncompleted < kQueueDepth; })) {
      fake::misuse("a queue has all its command buffers, and none completes");
    }
    ++state->uncompleted;
  }
  FakeCommandBuffer* commands = [[FakeCommandBuffer alloc] init];
  commands->queue = [self retain];
  commands->explains = descriptor->errorOptions & MTLCommandBufferErrorOptionEncoderExecutionStatus;
  commands->capture = fake::current_capture();
  fake::add("command_buffers", 1);
  return [commands autorelease];
}
- (void)addResidencySet:(id<MTLResidencySet>)set {
  residencySets.push_back([(id)set retain]);
  fake::add("residency_sets_attached", 1);
}
- (void)dealloc {
  {
    const std::lock_guard lock(state->mutex);
    state->stopping = true;
    state->changed.notify_all();
  }
  if (worker.get_id() == std::this_thread::get_id()) {
    worker.detach();
  } else {
    worker.join();
  }
  for (id set : residencySets) [set release];
  [super dealloc];
}
@end

@implementation FakeCommandBuffer
- (void)checkOpen {
  if (state != MTLCommandBufferStatusNotEnqueued) fake::misuse("an encoder for a command buffer that is committed");
  if (isOpen) fake::misuse("an encoder for a command buffer with an open encoder");
}
- (id<MTLComputeCommandEncoder>)computeCommandEncoder {
  [self checkOpen];
  if (fake::take("nil_encoders")) return nil;
  return [[[FakeComputeEncoder alloc] initWithCommands:self samples:nil] autorelease];
}
- (id<MTLComputeCommandEncoder>)computeCommandEncoderWithDescriptor:(MTLComputePassDescriptor*)descriptor {
  [self checkOpen];
  FakeSampleAttachment* samples = descriptor->attachments->first;
  return [[[FakeComputeEncoder alloc] initWithCommands:self samples:samples] autorelease];
}
- (id<MTLBlitCommandEncoder>)blitCommandEncoder {
  [self checkOpen];
  if (fake::take("nil_encoders")) return nil;
  return [[[FakeBlitEncoder alloc] initWithCommands:self samples:nil] autorelease];
}
- (id<MTLBlitCommandEncoder>)blitCommandEncoderWithDescriptor:(MTLBlitPassDescriptor*)descriptor {
  [self checkOpen];
  FakeSampleAttachment* samples = descriptor->attachments->first;
  return [[[FakeBlitEncoder alloc] initWithCommands:self samples:samples] autorelease];
}
- (void)commit {
  if (state != MTLCommandBufferStatusNotEnqueued) fake::misuse("commit of a command buffer that is committed");
  if (isOpen) fake::misuse("commit of a command buffer with an open encoder");
  state = MTLCommandBufferStatusCommitted;
  fake::add("commits", 1);
  fake::add("in_flight", 1);
  for (const fake::Pass& each : passes) fake::add_writers(each.samples, 1);
  fake::trace_commit(self);
  queue->state->push(self);
}
- (void)waitUntilCompleted {
  if (state == MTLCommandBufferStatusNotEnqueued) fake::misuse("wait for a command buffer that is not committed");
  std::unique_lock lock(mutex);
  over.wait(lock, [self] { return state >= MTLCommandBufferStatusCompleted; });
}
- (MTLCommandBufferStatus)status {
  return static_cast<MTLCommandBufferStatus>(state.load());
}
- (NSError*)error {
  return failure;
}
- (CFTimeInterval)GPUStartTime {
  return begin;
}
- (CFTimeInterval)GPUEndTime {
  return end;
}
- (fake::Failure)injected {
  const std::int64_t code = fake::get("command_error");
  if (code == 0 || fake::take("command_error_skip")) return {};
  fake::set("command_error", 0);
  return {static_cast<NSInteger>(code), "injected error"};
}
- (void)failAt:(std::size_t)failed with:(const fake::Failure&)reason {
  NSMutableDictionary* info =
      [NSMutableDictionary dictionaryWithObject:[NSString stringWithUTF8String:reason.reason.c_str()]
                                         forKey:NSLocalizedDescriptionKey];
  NSMutableArray* infos = [NSMutableArray array];
  for (std::size_t i = 0; i < passes.size(); ++i) {
    FakeEncoderInfo* encoder = [[[FakeEncoderInfo alloc] init] autorelease];
    [encoder setLabel:[NSString stringWithUTF8String:passes[i].label.c_str()]];
    encoder->state = i < failed    ? MTLCommandEncoderErrorStateCompleted
                     : i == failed ? MTLCommandEncoderErrorStateFaulted
                                   : MTLCommandEncoderErrorStatePending;
    [infos addObject:encoder];
  }
  if (explains) [info setObject:infos forKey:MTLCommandBufferEncoderInfoErrorKey];
  failure = [[NSError errorWithDomain:MTLCommandBufferErrorDomain code:reason.code userInfo:info] retain];
}
- (void)execute {
  begin = fake::now();
  pause("delay_us");
  fake::Failure reason = [self injected];
  std::size_t pass = reason.code == 0 ? 0 : static_cast<std::size_t>(fake::get("command_error_pass"));
  while (reason.code == 0 && pass < passes.size()) {
    fake::sample(passes[pass].samples, false);
    pause("pass_delay_us");
    for (const auto& command : passes[pass].commands) {
      reason = command();
      if (reason.code != 0) break;
    }
    fake::sample(passes[pass].samples, true);
    if (reason.code == 0) ++pass;
  }
  end = fake::now();
  if (reason.code != 0) [self failAt:pass with:reason];
  for (const fake::Pass& each : passes) fake::add_writers(each.samples, -1);
  [self dropPasses];
  queue->state->forget();
  fake::add("in_flight", -1);
  const std::lock_guard lock(mutex);
  state = reason.code == 0 ? MTLCommandBufferStatusCompleted : MTLCommandBufferStatusError;
  over.notify_all();
}
- (void)dropPasses {
  for (fake::Pass& pass : passes) [pass.samples release];
  for (id object : kept) [object release];
  passes.clear();
  kept.clear();
}
- (void)dealloc {
  if (isOpen) fake::abort_over_misuse("a command buffer is released with an open encoder");
  if (state == MTLCommandBufferStatusNotEnqueued) queue->state->forget();
  [self dropPasses];
  [failure release];
  [queue release];
  [super dealloc];
}
@end
