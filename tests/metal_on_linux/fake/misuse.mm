#import "misuse.h"

#import <Metal/Metal.h>

#include <functional>
#include <map>

#import "fake.h"
#include "metal/autorelease_pool.h"

namespace fake {
namespace {

constexpr const char* kShader = R"metal(#include <metal_stdlib>
using namespace metal;
kernel void twice(device float* values [[buffer(0)]], uint i [[thread_position_in_grid]]) { values[i] *= 2; }
)metal";

// What a misuse starts from. Objects without an owner are autoreleased.
struct Scene {
  id<MTLDevice> device = [MTLCreateSystemDefaultDevice() autorelease];
  id<MTLCommandQueue> queue = [[device newCommandQueue] autorelease];
  id<MTLBuffer> buffer = [[device newBufferWithLength:64 options:MTLResourceStorageModeShared] autorelease];
  id<MTLCommandBuffer> commands =
      [queue commandBufferWithDescriptor:[[[MTLCommandBufferDescriptor alloc] init] autorelease]];

  id<MTLComputePipelineState> state() const {
    NSError* error = nil;
    MTLCompileOptions* options = [[[MTLCompileOptions alloc] init] autorelease];
    id<MTLLibrary> library = [[device newLibraryWithSource:[NSString stringWithUTF8String:kShader]
                                                   options:options
                                                     error:&error] autorelease];
    MTLFunctionConstantValues* values = [[[MTLFunctionConstantValues alloc] init] autorelease];
    id<MTLFunction> function = [[library newFunctionWithName:@"twice" constantValues:values error:&error] autorelease];
    MTLComputePipelineDescriptor* descriptor = [[[MTLComputePipelineDescriptor alloc] init] autorelease];
    [descriptor setComputeFunction:function];
    return [[device newComputePipelineStateWithDescriptor:descriptor
                                                  options:MTLPipelineOptionNone
                                               reflection:nullptr
                                                    error:&error] autorelease];
  }
};

// Ends its encoder on the way out, as a program that handles the error would.
struct OpenCompute {
  explicit OpenCompute(const Scene& scene) : encoder([[scene.commands computeCommandEncoder] retain]) {}
  ~OpenCompute() {
    if (open) [encoder endEncoding];
    [encoder release];
  }
  id<MTLComputeCommandEncoder> encoder;
  bool open = true;
};

struct OpenBlit {
  explicit OpenBlit(const Scene& scene) : encoder([[scene.commands blitCommandEncoder] retain]) {}
  ~OpenBlit() {
    [encoder endEncoding];
    [encoder release];
  }
  id<MTLBlitCommandEncoder> encoder;
};

void end(OpenCompute& pass) {
  pass.open = false;
  [pass.encoder endEncoding];
}

void correct_use(Scene& scene) {
  {
    OpenCompute pass(scene);
    [pass.encoder setComputePipelineState:scene.state()];
    [pass.encoder setBuffer:scene.buffer offset:0 atIndex:0];
    [pass.encoder dispatchThreadgroups:MTLSizeMake(1, 1, 1) threadsPerThreadgroup:MTLSizeMake(16, 1, 1)];
  }
  {
    OpenBlit pass(scene);
    [pass.encoder copyFromBuffer:scene.buffer sourceOffset:0 toBuffer:scene.buffer destinationOffset:32 size:32];
    [pass.encoder fillBuffer:scene.buffer range:NSMakeRange(0, 32) value:0];
  }
  [scene.commands commit];
  [scene.commands waitUntilCompleted];
}

void dispatch(Scene& scene, MTLSize threadgroups, MTLSize threads, bool with_state, bool with_buffer) {
  OpenCompute pass(scene);
  if (with_state) [pass.encoder setComputePipelineState:scene.state()];
  if (with_buffer) [pass.encoder setBuffer:scene.buffer offset:0 atIndex:0];
  [pass.encoder dispatchThreadgroups:threadgroups threadsPerThreadgroup:threads];
}

void copy(Scene& scene, NSUInteger from, NSUInteger to, NSUInteger size) {
  OpenBlit pass(scene);
  [pass.encoder copyFromBuffer:scene.buffer sourceOffset:from toBuffer:scene.buffer destinationOffset:to size:size];
}

void no_copy_buffer(Scene& scene, NSUInteger offset, NSUInteger length) {
  alignas(4096) static char pages[8192];
  [[scene.device newBufferWithBytesNoCopy:pages + offset
                                   length:length
                                  options:MTLResourceStorageModeShared
                              deallocator:nil] release];
}

id<MTLResidencySet> residency_set(Scene& scene) {
  NSError* error = nil;
  MTLResidencySetDescriptor* descriptor = [[[MTLResidencySetDescriptor alloc] init] autorelease];
  return [[scene.device newResidencySetWithDescriptor:descriptor error:&error] autorelease];
}

void stop_with_work_in_flight(Scene& scene) {
  set("delay_us", 50'000);
  [scene.commands commit];
  set("delay_us", 0);
  // Whatever stopCapture does, the work ends before its scene does.
  struct Wait {
    id<MTLCommandBuffer> commands;
    ~Wait() { [commands waitUntilCompleted]; }
  } const wait{scene.commands};
  [[MTLCaptureManager sharedCaptureManager] stopCapture];
}

void too_many_samples(Scene& scene) {
  MTLCounterSampleBufferDescriptor* descriptor = [[[MTLCounterSampleBufferDescriptor alloc] init] autorelease];
  [descriptor setCounterSet:[[scene.device counterSets] lastObject]];
  [descriptor setSampleCount:4097];
  NSError* error = nil;
  [[scene.device newCounterSampleBufferWithDescriptor:descriptor error:&error] release];
}

using Deed = std::function<void(Scene&)>;

std::map<std::string, Deed> command_buffer_misuses() {
  std::map<std::string, Deed> all;
  all["none"] = correct_use;
  all["commit_twice"] = [](Scene& scene) {
    [scene.commands commit];
    [scene.commands commit];
  };
  all["commit_with_open_encoder"] = [](Scene& scene) {
    const OpenCompute pass(scene);
    [scene.commands commit];
  };
  all["wait_before_commit"] = [](Scene& scene) { [scene.commands waitUntilCompleted]; };
  all["two_open_encoders"] = [](Scene& scene) {
    const OpenCompute pass(scene);
    [scene.commands blitCommandEncoder];
  };
  all["encoder_after_commit"] = [](Scene& scene) {
    [scene.commands commit];
    [scene.commands computeCommandEncoder];
  };
  all["end_encoding_twice"] = [](Scene& scene) {
    OpenCompute pass(scene);
    end(pass);
    [pass.encoder endEncoding];
  };
  all["command_after_end_encoding"] = [](Scene& scene) {
    OpenCompute pass(scene);
    end(pass);
    [pass.encoder setBuffer:scene.buffer offset:0 atIndex:0];
  };
  all["drop_open_encoder"] = [](Scene& scene) {
    const void* const pool = objc_autoreleasePoolPush();
    [scene.commands computeCommandEncoder];
    objc_autoreleasePoolPop(const_cast<void*>(pool));
  };
  all["stop_without_capture"] = [](Scene&) { [[MTLCaptureManager sharedCaptureManager] stopCapture]; };
  all["stop_with_work_in_flight"] = stop_with_work_in_flight;
  all["too_many_samples"] = too_many_samples;
  return all;
}

std::map<std::string, Deed> dispatch_misuses() {
  const MTLSize one = MTLSizeMake(1, 1, 1);
  std::map<std::string, Deed> all;
  all["dispatch_without_pipeline_state"] = [one](Scene& scene) { dispatch(scene, one, one, false, true); };
  all["dispatch_without_a_buffer"] = [one](Scene& scene) { dispatch(scene, one, one, true, false); };
  all["dispatch_of_nothing"] = [one](Scene& scene) { dispatch(scene, MTLSizeMake(1, 0, 1), one, true, true); };
  all["dispatch_of_too_many_threads"] = [one](Scene& scene) {
    dispatch(scene, one, MTLSizeMake(1025, 1, 1), true, true);
  };
  all["bind_beyond_the_end"] = [](Scene& scene) {
    const OpenCompute pass(scene);
    [pass.encoder setBuffer:scene.buffer offset:64 atIndex:0];
  };
  all["bind_nothing"] = [](Scene& scene) {
    const OpenCompute pass(scene);
    [pass.encoder setBuffer:nil offset:0 atIndex:0];
  };
  all["bind_beyond_the_last_index"] = [](Scene& scene) {
    const OpenCompute pass(scene);
    [pass.encoder setBuffer:scene.buffer offset:0 atIndex:31];
  };
  all["too_many_bytes"] = [](Scene& scene) {
    const OpenCompute pass(scene);
    const char bytes[4097] = {};
    [pass.encoder setBytes:bytes length:sizeof bytes atIndex:0];
  };
  return all;
}

std::map<std::string, Deed> memory_misuses() {
  std::map<std::string, Deed> all;
  all["unaligned_copy"] = [](Scene& scene) { copy(scene, 0, 32, 5); };
  all["copy_beyond_the_end"] = [](Scene& scene) { copy(scene, 0, 32, 64); };
  all["overlapping_copy"] = [](Scene& scene) { copy(scene, 0, 16, 32); };
  all["fill_of_nothing"] = [](Scene& scene) {
    const OpenBlit pass(scene);
    [pass.encoder fillBuffer:scene.buffer range:NSMakeRange(0, 0) value:0];
  };
  all["buffer_of_nothing"] = [](Scene& scene) {
    [[scene.device newBufferWithLength:0 options:MTLResourceStorageModeShared] release];
  };
  all["buffer_beyond_the_longest"] = [](Scene& scene) {
    [[scene.device newBufferWithLength:[scene.device maxBufferLength] + 1
                               options:MTLResourceStorageModeShared] release];
  };
  all["leak"] = [](Scene& scene) { [scene.buffer retain]; };
  all["unaligned_memory"] = [](Scene& scene) { no_copy_buffer(scene, 16, 4096); };
  all["length_not_in_pages"] = [](Scene& scene) { no_copy_buffer(scene, 0, 100); };
  all["allocation_added_twice"] = [](Scene& scene) {
    const id<MTLResidencySet> set = residency_set(scene);
    [set addAllocation:scene.buffer];
    [set addAllocation:scene.buffer];
  };
  all["strange_allocation_removed"] = [](Scene& scene) { [residency_set(scene) removeAllocation:scene.buffer]; };
  return all;
}

}  // namespace

bool commit_misuse(const std::string& name) {
  const moeflux::metal::AutoreleasePool pool;
  for (const auto& misuses : {command_buffer_misuses(), dispatch_misuses(), memory_misuses()}) {
    const auto found = misuses.find(name);
    if (found == misuses.end()) continue;
    Scene scene;
    found->second(scene);
    return true;
  }
  return false;
}

}  // namespace fake
