// Queues, command buffers and the passes in them.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#import "fake.h"
#include "msl/run.h"

@class FakeCommandBuffer, FakePipelineState;

namespace fake {

// Why a command failed; code 0: it did not.
struct Failure {
  NSInteger code = 0;
  std::string reason;
};

// What happens between the start and the end of an encoder.
struct Pass {
  std::string label;
  std::vector<std::function<Failure()>> commands;
  std::vector<std::string> trace;  // a line of JSON for each command
  FakeSampleAttachment* samples = nil;
};

// What a compute encoder has bound.
struct Bindings {
  FakePipelineState* state = nil;
  msl_buffer buffers[MSL_MAX_BUFFERS] = {};
  std::shared_ptr<std::vector<char>> bytes[MSL_MAX_BUFFERS];
};

// What a queue shares with its thread, which may outlive it: the last reference to a queue may be that of a command
// buffer which the thread itself lets go.
struct QueueState {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<FakeCommandBuffer*> committed;
  int uncompleted = 0;
  bool stopping = false;

  void push(FakeCommandBuffer* commands);
  void forget();
};

}  // namespace fake

@interface FakeQueue : FakeLabelled <MTLCommandQueue> {
 @public
  std::shared_ptr<fake::QueueState> state;
  std::thread worker;
  std::vector<id> residencySets;
}
@end

@interface FakeCommandBuffer : FakeLabelled <MTLCommandBuffer> {
 @public
  FakeQueue* queue;
  std::vector<fake::Pass> passes;
  std::vector<id> kept;
  std::mutex mutex;
  std::condition_variable over;
  std::atomic<NSUInteger> state;
  bool explains;  // tells of its encoders when it fails
  bool isOpen;    // an encoder is
  std::int64_t capture;
  NSError* failure;
  double begin;
  double end;
}
- (void)execute;
@end

// Keeps its command buffer while it is open.
@interface FakeEncoder : FakeLabelled {
 @public
  FakeCommandBuffer* commands;
  std::size_t pass;
  bool ended;
}
- (id)initWithCommands:(FakeCommandBuffer*)owner samples:(FakeSampleAttachment*)samples;
- (fake::Pass&)openPass;
- (void)endEncoding;
@end

@interface FakeComputeEncoder : FakeEncoder <MTLComputeCommandEncoder> {
 @public
  fake::Bindings bindings;
}
@end

@interface FakeBlitEncoder : FakeEncoder <MTLBlitCommandEncoder>
@end

@interface FakeEncoderInfo : FakeLabelled <MTLCommandBufferEncoderInfo> {
 @public
  MTLCommandEncoderErrorState state;
}
@end
