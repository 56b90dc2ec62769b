#include "metal/passes.h"

#include <algorithm>

#include "error.h"
#include "metal/autorelease_pool.h"
#include "metal/failure.h"

namespace moeflux::metal {
namespace {

// Longer blits are known to fail silently beyond 4 GiB.
constexpr std::size_t kLongestBlit = std::size_t{1} << 30;

MTLSize size_of(const Extent& extent) { return MTLSizeMake(extent.x, extent.y, extent.z); }

std::size_t volume(const Extent& extent) { return std::size_t{extent.x} * extent.y * extent.z; }

// Calls body(begin, nbytes) for pieces of `nbytes` that a blit can do.
void for_each_piece(std::size_t nbytes, auto body) {
  for (std::size_t begin = 0; begin < nbytes; begin += kLongestBlit)
    body(begin, std::min(kLongestBlit, nbytes - begin));
}

}  // namespace

std::size_t count_passes(const std::vector<Command>& commands) {
  std::size_t count = 0;
  for (const Command& command : commands) {
    const auto* replay = std::get_if<ReplayCommand>(&command);
    count += replay == nullptr ? 1 : count_passes(replay->recording->commands());
  }
  return count;
}

void Passes::encode(const std::vector<Command>& commands) {
  for (const Command& command : commands) {
    std::visit([this](const auto& alternative) { encode(alternative); }, command);
  }
}

void Passes::encode(const DispatchCommand& command) {
  MetalPipeline& pipeline = *command.pipeline;
  const Launch launch = pipeline.description().launch({pipeline.constants(), command.params.data(), step_});
  const PipelineState& state = pipeline.state(launch.function);
  if (volume(launch.threads) > state.most_threads) {
    throw PipelineError(pipeline.kernel(),
                        std::string(launch.function) + " needs " + std::to_string(volume(launch.threads)) +
                            " threads in a threadgroup, the device gives it " + std::to_string(state.most_threads));
  }
  const id<MTLComputeCommandEncoder> pass = compute_pass(pipeline.kernel());
  if (volume(launch.threadgroups) == 0) return;
  [pass setComputePipelineState:state.state.get()];
  NSUInteger index = 0;
  for (const BoundBuffer& buffer : command.buffers) {
    [pass setBuffer:buffer.allocation->buffer() offset:buffer.offset atIndex:index++];
  }
  if (!command.params.empty()) {
    [pass setBytes:command.params.data() length:command.params.size() atIndex:index++];
  }
  [pass setBytes:&step_ length:sizeof step_ atIndex:index];
  [pass dispatchThreadgroups:size_of(launch.threadgroups) threadsPerThreadgroup:size_of(launch.threads)];
}

void Passes::encode(const CopyCommand& command) {
  const id<MTLBlitCommandEncoder> pass = blit_pass("copy");
  for_each_piece(command.nbytes, [&](std::size_t begin, std::size_t nbytes) {
    [pass copyFromBuffer:command.source.allocation->buffer()
             sourceOffset:command.source.offset + begin
                 toBuffer:command.destination.allocation->buffer()
        destinationOffset:command.destination.offset + begin
                     size:nbytes];
  });
}

void Passes::encode(const ZeroCommand& command) {
  const id<MTLBlitCommandEncoder> pass = blit_pass("zero");
  for_each_piece(command.nbytes, [&](std::size_t begin, std::size_t nbytes) {
    [pass fillBuffer:command.destination.allocation->buffer()
               range:NSMakeRange(command.destination.offset + begin, nbytes)
               value:0];
  });
}

void Passes::encode(const ReplayCommand& command) { encode(command.recording->commands()); }

id<MTLComputeCommandEncoder> Passes::compute_pass(const std::string& kernel) {
  if (compute_ && timings_ == nullptr) return compute_.get();
  end();
  const AutoreleasePool pool;
  if (timings_ == nullptr) {
    compute_ = objc_ptr<id<MTLComputeCommandEncoder>>::retain([commands_.get() computeCommandEncoder]);
  } else {
    MTLComputePassDescriptor* pass = [MTLComputePassDescriptor computePassDescriptor];
    timings_->attach(pass, kernel);
    compute_ =
        objc_ptr<id<MTLComputeCommandEncoder>>::retain([commands_.get() computeCommandEncoderWithDescriptor:pass]);
  }
  if (!compute_) throw DeviceError("the device gave no compute encoder for command buffer '" + label_ + "'");
  [compute_.get() setLabel:string_of(timings_ == nullptr ? label_ : kernel)];
  return compute_.get();
}

id<MTLBlitCommandEncoder> Passes::blit_pass(const char* command) {
  if (blit_ && timings_ == nullptr) return blit_.get();
  end();
  const AutoreleasePool pool;
  if (timings_ == nullptr) {
    blit_ = objc_ptr<id<MTLBlitCommandEncoder>>::retain([commands_.get() blitCommandEncoder]);
  } else {
    MTLBlitPassDescriptor* pass = [MTLBlitPassDescriptor blitPassDescriptor];
    timings_->attach(pass, command);
    blit_ = objc_ptr<id<MTLBlitCommandEncoder>>::retain([commands_.get() blitCommandEncoderWithDescriptor:pass]);
  }
  if (!blit_) throw DeviceError("the device gave no blit encoder for command buffer '" + label_ + "'");
  [blit_.get() setLabel:string_of(timings_ == nullptr ? label_ : command)];
  return blit_.get();
}

void Passes::end() {
  if (compute_) [compute_.get() endEncoding];
  if (blit_) [blit_.get() endEncoding];
  compute_.reset();
  blit_.reset();
}

}  // namespace moeflux::metal
