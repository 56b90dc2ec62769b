// GPU traces: a folder at the output URL with a line of JSON for each command buffer, command and scope.
#pragma once
#import "commands.h"

namespace fake {

// The number of the capture under way, 0 if none.
std::int64_t current_capture();
// Traces a command buffer if it was made during the capture that is under way.
void trace_commit(FakeCommandBuffer* commands);

}  // namespace fake

@interface FakeCaptureScope : FakeLabelled <MTLCaptureScope> {
 @public
  id queue;
}
@end
