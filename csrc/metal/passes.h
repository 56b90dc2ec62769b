// Encodes commands into the passes of a Metal command buffer.
#pragma once
#import <Metal/Metal.h>

#include <string>
#include <vector>

#include "metal/commands.h"
#include "metal/objc_ptr.h"
#include "metal/pass_timings.h"

namespace moeflux::metal {

// Dispatches in a row share a pass, and so do blits; Metal runs what is in them in order. With timings each command has
// a pass of its own. Ends the open pass when destroyed: Metal aborts over one that is left open.
class Passes {
 public:
  // `timings` may be null.
  Passes(objc_ptr<id<MTLCommandBuffer>> commands, Step step, std::string label, PassTimings* timings)
      : commands_(std::move(commands)), step_(step), label_(std::move(label)), timings_(timings) {}
  ~Passes() { end(); }
  Passes(const Passes&) = delete;
  Passes& operator=(const Passes&) = delete;

  // Throws DeviceError, and PipelineError or CompileError for what is compiled only now.
  void encode(const std::vector<Command>& commands);

 private:
  void encode(const DispatchCommand& command);
  void encode(const CopyCommand& command);
  void encode(const ZeroCommand& command);
  void encode(const ReplayCommand& command);
  id<MTLComputeCommandEncoder> compute_pass(const std::string& kernel);
  id<MTLBlitCommandEncoder> blit_pass(const char* command);
  void end();

  objc_ptr<id<MTLCommandBuffer>> commands_;
  Step step_;
  std::string label_;
  PassTimings* timings_;
  objc_ptr<id<MTLComputeCommandEncoder>> compute_;
  objc_ptr<id<MTLBlitCommandEncoder>> blit_;
};

// Passes that these commands need if each has its own.
std::size_t count_passes(const std::vector<Command>& commands);

}  // namespace moeflux::metal
