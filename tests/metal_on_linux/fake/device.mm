#import "commands.h"
#import "counters.h"
#import "memory.h"
#import "shader_library.h"

@interface FakeDevice : FakeObject <MTLDevice>
@end

@implementation FakeDevice
- (NSString*)name {
  return @"fake Metal on the host";
}
- (BOOL)hasUnifiedMemory {
  return YES;
}
- (uint64_t)recommendedMaxWorkingSetSize {
  const std::int64_t chosen = fake::get("working_set");
  return chosen == 0 ? uint64_t{8} << 30 : static_cast<uint64_t>(chosen);
}
- (NSUInteger)currentAllocatedSize {
  return static_cast<NSUInteger>(fake::get("allocated_nbytes"));
}
- (NSUInteger)maxBufferLength {
  return fake::longest_buffer();
}
- (id<MTLCommandQueue>)newCommandQueue {
  if (fake::get("no_queue")) return nil;
  fake::add("queues", 1);
  return [[FakeQueue alloc] init];
}
- (id<MTLBuffer>)newBufferWithLength:(NSUInteger)length options:(MTLResourceOptions)options {
  if (options != MTLResourceStorageModeShared) fake::misuse("the fake has shared buffers only");
  return fake::new_buffer(length);
}
- (id<MTLBuffer>)newBufferWithBytesNoCopy:(void*)pointer
                                   length:(NSUInteger)length
                                  options:(MTLResourceOptions)options
                              deallocator:(void (^)(void* pointer, NSUInteger length))deallocator {
  if (options != MTLResourceStorageModeShared) fake::misuse("the fake has shared buffers only");
  return fake::new_buffer_of(pointer, length, deallocator);
}
- (id<MTLLibrary>)newLibraryWithSource:(NSString*)source options:(MTLCompileOptions*)options error:(NSError**)error {
  fake::set("math_mode", options->mathMode);
  fake::set("language_version", options->languageVersion);
  fake::add("libraries", 1);
  if (fake::take("compile_errors")) {
    if (error)
      *error = fake::make_error(MTLLibraryErrorDomain, MTLLibraryErrorCompileFailure, "injected compile error");
    return nil;
  }
  const fake::Compiled compiled = fake::compile(fake::text_of(source));
  if (compiled.host == nullptr) {
    if (error) *error = fake::make_error(MTLLibraryErrorDomain, MTLLibraryErrorCompileFailure, compiled.log);
    return nil;
  }
  // A compiler with warnings reports them and gives the library all the same.
  if (error && fake::get("compile_warnings")) {
    *error = fake::make_error(MTLLibraryErrorDomain, MTLLibraryErrorCompileWarning, "injected compile warning");
  }
  FakeLibrary* library = [[FakeLibrary alloc] init];
  library->host = compiled.host;
  return library;
}
- (id<MTLComputePipelineState>)newComputePipelineStateWithDescriptor:(MTLComputePipelineDescriptor*)descriptor
                                                             options:(MTLPipelineOption)options
                                                          reflection:
                                                              (MTLAutoreleasedComputePipelineReflection*)reflection
                                                               error:(NSError**)error {
  if (options != MTLPipelineOptionNone || reflection != nullptr) fake::misuse("the fake has no reflection");
  if (descriptor->computeFunction == nil) fake::misuse("a pipeline state without a function");
  if (fake::take("pipeline_errors")) {
    if (error) *error = fake::make_error(@"AGXMetal", 1, "injected pipeline error");
    return nil;
  }
  FakePipelineState* state = [[FakePipelineState alloc] init];
  state->function = [static_cast<FakeFunction*>(descriptor->computeFunction) retain];
  [state setLabel:descriptor->label];
  fake::set_text("pipeline_label", fake::text_of(descriptor->label));
  return state;
}
- (NSArray*)counterSets {
  return fake::counter_sets();
}
- (BOOL)supportsCounterSampling:(MTLCounterSamplingPoint)point {
  return point == MTLCounterSamplingPointAtStageBoundary && !fake::get("no_counter_sampling");
}
- (id<MTLCounterSampleBuffer>)newCounterSampleBufferWithDescriptor:(MTLCounterSampleBufferDescriptor*)descriptor
                                                             error:(NSError**)error {
  return fake::new_sample_buffer(descriptor, error);
}
- (void)sampleTimestamps:(MTLTimestamp*)cpuTimestamp gpuTimestamp:(MTLTimestamp*)gpuTimestamp {
  *cpuTimestamp = static_cast<MTLTimestamp>(fake::now() * 1e9);
  *gpuTimestamp = fake::get("stopped_gpu_clock") ? 1 : fake::gpu_ticks();
}
- (id<MTLResidencySet>)newResidencySetWithDescriptor:(MTLResidencySetDescriptor*)descriptor error:(NSError**)error {
  if (fake::take("residency_set_errors")) {
    if (error) *error = fake::make_error(@"MTLDeviceErrorDomain", 1, "injected residency set error");
    return nil;
  }
  fake::set("residency_set_capacity", static_cast<std::int64_t>(descriptor->initialCapacity));
  return [[FakeResidencySet alloc] init];
}
// Systems before macOS 15 have no residency sets.
- (BOOL)respondsToSelector:(SEL)selector {
  if (fake::get("no_residency_sets") && sel_isEqual(selector, @selector(newResidencySetWithDescriptor:error:)))
    return NO;
  return [super respondsToSelector:selector];
}
@end

extern "C" id<MTLDevice> MTLCreateSystemDefaultDevice(void) {
  return fake::get("no_device") ? nil : [[FakeDevice alloc] init];
}
