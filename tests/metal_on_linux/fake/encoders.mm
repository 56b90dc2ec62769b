#include <cstdio>
#include <cstring>
#include <memory>

#import "commands.h"
#import "memory.h"
#import "shader_library.h"

namespace {

NSInteger code_of(msl_status status) {
  return status == MSL_OUT_OF_BOUNDS ? MTLCommandBufferErrorPageFault : MTLCommandBufferErrorInternal;
}

fake::Failure run(const fake::Bindings& bindings, msl_dispatch dispatch) {
  dispatch.order = static_cast<uint32_t>(fake::get("order"));
  dispatch.workers = static_cast<uint32_t>(fake::get("workers"));
  msl_report report = {};
  const msl_status status = bindings.state->function->host->run(&dispatch, &report);
  fake::add("dispatches", 1);
  fake::add("barriers", static_cast<std::int64_t>(report.barriers));
  fake::add("divergent_operations", static_cast<std::int64_t>(report.divergent_operations));
  fake::add("races", static_cast<std::int64_t>(report.races));
  if (status != MSL_OK) return {code_of(status), report.message};
  // Metal allows it, but our shaders promise full simdgroups, which is what other GPUs need.
  if (report.divergent_operations > 0) {
    return {MTLCommandBufferErrorInternal, std::string("a simd operation with lanes missing at ") + report.divergence};
  }
  return {};
}

std::string extent_text(const uint32_t (&extent)[3]) {
  char text[64];
  std::snprintf(text, sizeof text, "[%u, %u, %u]", extent[0], extent[1], extent[2]);
  return text;
}

}  // namespace

@implementation FakeEncoder
- (id)initWithCommands:(FakeCommandBuffer*)owner samples:(FakeSampleAttachment*)samples {
  if ((self = [super init])) {
    commands = [owner retain];
    commands->isOpen = true;
    pass = commands->passes.size();
    commands->passes.emplace_back();
    commands->passes.back().samples = [samples retain];
  }
  return self;
}
- (fake::Pass&)openPass {
  if (ended) fake::misuse("a command for an encoder that has ended");
  return commands->passes[pass];
}
- (void)setLabel:(NSString*)label {
  [super setLabel:label];
  [self openPass].label = fake::text_of(label);
}
- (void)endEncoding {
  if (ended) fake::misuse("endEncoding of an encoder that has ended");
  ended = true;
  commands->isOpen = false;
}
- (void)dealloc {
  if (!ended) fake::abort_over_misuse("an encoder is released without endEncoding");
  [commands release];
  [super dealloc];
}
@end

@implementation FakeComputeEncoder
- (void)setComputePipelineState:(id<MTLComputePipelineState>)state {
  [self openPass];
  bindings.state = static_cast<FakePipelineState*>(state);
}
- (void)setBuffer:(id<MTLBuffer>)buffer offset:(NSUInteger)offset atIndex:(NSUInteger)index {
  [self openPass];
  if (index >= MSL_MAX_BUFFERS) fake::misuse("a buffer bound beyond index 30");
  if (buffer == nil) fake::misuse("no buffer to bind");
  if (offset >= [buffer length]) fake::misuse("a buffer bound at an offset beyond its end");
  commands->kept.push_back([(id)buffer retain]);
  bindings.bytes[index] = nullptr;
  bindings.buffers[index] = {static_cast<char*>([buffer contents]) + offset, [buffer length] - offset};
}
- (void)setBytes:(const void*)bytes length:(NSUInteger)length atIndex:(NSUInteger)index {
  [self openPass];
  if (index >= MSL_MAX_BUFFERS) fake::misuse("bytes bound beyond index 30");
  if (length == 0 || length > 4096) fake::misuse("setBytes takes 1 to 4096 bytes");
  const char* begin = static_cast<const char*>(bytes);
  bindings.bytes[index] = std::make_shared<std::vector<char>>(begin, begin + length);
  bindings.buffers[index] = {bindings.bytes[index]->data(), length};
}
- (void)dispatchThreadgroups:(MTLSize)threadgroups threadsPerThreadgroup:(MTLSize)threads {
  fake::Pass& open = [self openPass];
  if (bindings.state == nil) fake::misuse("a dispatch without a pipeline state");
  if (threadgroups.width * threadgroups.height * threadgroups.depth == 0) fake::misuse("a dispatch of no threadgroups");
  const NSUInteger n_threads = threads.width * threads.height * threads.depth;
  if (n_threads == 0) fake::misuse("a dispatch of no threads");
  if (n_threads > [bindings.state maxTotalThreadsPerThreadgroup]) {
    fake::misuse("a dispatch of more threads than maxTotalThreadsPerThreadgroup");
  }
  FakeFunction* function = bindings.state->function;
  const msl_kernel* kernel = function->host->pipeline_kernel(function->pipeline);
  for (std::size_t i = 0; i < kernel->n_arguments; ++i) {
    const msl_argument& argument = kernel->arguments[i];
    if (argument.kind == MSL_ARGUMENT_BUFFER && bindings.buffers[argument.index].address == nullptr) {
      fake::misuse(std::string(kernel->name) + ": nothing is bound to " + argument.name);
    }
  }
  commands->kept.push_back([bindings.state retain]);
  msl_dispatch dispatch = {};
  dispatch.pipeline = function->pipeline;
  std::copy(std::begin(bindings.buffers), std::end(bindings.buffers), dispatch.buffers);
  const uint32_t sizes[2][3] = {{static_cast<uint32_t>(threadgroups.width), static_cast<uint32_t>(threadgroups.height),
                                 static_cast<uint32_t>(threadgroups.depth)},
                                {static_cast<uint32_t>(threads.width), static_cast<uint32_t>(threads.height),
                                 static_cast<uint32_t>(threads.depth)}};
  std::copy_n(sizes[0], 3, dispatch.threadgroups);
  std::copy_n(sizes[1], 3, dispatch.threads);
  open.commands.push_back([bound = bindings, dispatch] { return run(bound, dispatch); });
  open.trace.push_back(std::string("{\"dispatch\": \"") + kernel->name + "\", \"threadgroups\": " +
                       extent_text(sizes[0]) + ", \"threads\": " + extent_text(sizes[1]) + "}");
}
@end

@implementation FakeBlitEncoder
- (void)copyFromBuffer:(id<MTLBuffer>)source
          sourceOffset:(NSUInteger)sourceOffset
              toBuffer:(id<MTLBuffer>)destination
     destinationOffset:(NSUInteger)destinationOffset
                  size:(NSUInteger)size {
  fake::Pass& open = [self openPass];
  const char* from = fake::blit_range(source, sourceOffset, size, "a copy");
  char* to = fake::blit_range(destination, destinationOffset, size, "a copy");
  if (from < to + size && to < from + size) fake::misuse("a copy between ranges that overlap");
  commands->kept.push_back([(id)source retain]);
  commands->kept.push_back([(id)destination retain]);
  open.commands.push_back([from, to, size] {
    std::memcpy(to, from, size);
    return fake::Failure();
  });
  open.trace.push_back("{\"copy\": " + std::to_string(size) + "}");
}
- (void)fillBuffer:(id<MTLBuffer>)buffer range:(NSRange)range value:(uint8_t)value {
  fake::Pass& open = [self openPass];
  char* to = fake::blit_range(buffer, range.location, range.length, "a fill");
  commands->kept.push_back([(id)buffer retain]);
  const std::size_t size = range.length;
  open.commands.push_back([to, size, value] {
    std::memset(to, value, size);
    return fake::Failure();
  });
  open.trace.push_back("{\"fill\": " + std::to_string(size) + "}");
}
@end
