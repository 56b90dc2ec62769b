#import "capture.h"

#include <sys/stat.h>

#include <fstream>
#include <mutex>
#include <string>
#include <vector>

NSString* const MTLCaptureErrorDomain = @"MTLCaptureErrorDomain";

namespace {

struct Trace {
  std::mutex mutex;
  std::int64_t n_captures = 0;
  bool active = false;
  bool in_scope = false;
  id target = nil;
  std::string path;
  std::vector<std::string> lines;
};

Trace& trace() {
  static auto* const one = new Trace;
  return *one;
}

std::string quoted(const std::string& text) {
  std::string json = "\"";
  for (const char letter : text) {
    if (letter == '"' || letter == '\\') json += '\\';
    json += letter;
  }
  return json + "\"";
}

bool covers(const Trace& all, FakeCommandBuffer* commands) {
  if ([all.target isKindOfClass:[FakeCaptureScope class]]) return all.in_scope;
  if ([all.target isKindOfClass:[FakeQueue class]]) return all.target == commands->queue;
  return true;
}

}  // namespace

namespace fake {

std::int64_t current_capture() {
  Trace& all = trace();
  const std::lock_guard lock(all.mutex);
  return all.active ? all.n_captures : 0;
}

void trace_commit(FakeCommandBuffer* commands) {
  Trace& all = trace();
  const std::lock_guard lock(all.mutex);
  if (!all.active || commands->capture != all.n_captures || !covers(all, commands)) return;
  all.lines.push_back("{\"command_buffer\": " + quoted(text_of([commands label])) + "}");
  for (const Pass& pass : commands->passes) {
    all.lines.push_back("{\"encoder\": " + quoted(pass.label) + "}");
    all.lines.insert(all.lines.end(), pass.trace.begin(), pass.trace.end());
  }
}

}  // namespace fake

@implementation FakeCaptureScope
- (void)note:(const char*)what inside:(bool)inside {
  Trace& all = trace();
  const std::lock_guard lock(all.mutex);
  if (all.target == self) all.in_scope = inside;
  if (all.active) all.lines.push_back(std::string("{\"scope\": \"") + what + "\"}");
}
- (void)beginScope {
  [self note:"begin" inside:true];
}
- (void)endScope {
  [self note:"end" inside:false];
}
- (void)dealloc {
  [queue release];
  [super dealloc];
}
@end

@implementation MTLCaptureDescriptor
- (void)setCaptureObject:(id)object {
  [object retain];
  [captureObject release];
  captureObject = object;
}
- (void)setDestination:(MTLCaptureDestination)chosen {
  destination = chosen;
}
- (void)setOutputURL:(NSURL*)url {
  [url retain];
  [outputURL release];
  outputURL = url;
}
- (void)dealloc {
  [captureObject release];
  [outputURL release];
  [super dealloc];
}
@end

@implementation MTLCaptureManager
+ (MTLCaptureManager*)sharedCaptureManager {
  static MTLCaptureManager* const manager = [[MTLCaptureManager alloc] init];
  return manager;
}
- (BOOL)supportsDestination:(MTLCaptureDestination)destination {
  if (destination != MTLCaptureDestinationGPUTraceDocument) return NO;
  if (fake::get("capture")) return YES;
  const char* enabled = std::getenv("MTL_CAPTURE_ENABLED");
  return enabled != nullptr && std::string(enabled) == "1";
}
- (BOOL)refuse:(MTLCaptureError)code because:(const char*)reason to:(NSError**)error {
  if (error) *error = fake::make_error(MTLCaptureErrorDomain, code, reason);
  return NO;
}
- (BOOL)startCaptureWithDescriptor:(MTLCaptureDescriptor*)descriptor error:(NSError**)error {
  if (![self supportsDestination:descriptor->destination]) {
    return [self refuse:MTLCaptureErrorNotSupported because:"capturing is not supported" to:error];
  }
  Trace& all = trace();
  const std::lock_guard lock(all.mutex);
  if (all.active) return [self refuse:MTLCaptureErrorAlreadyCapturing because:"already capturing" to:error];
  if (descriptor->captureObject == nil || descriptor->outputURL == nil) {
    return [self refuse:MTLCaptureErrorInvalidDescriptor because:"no capture object or output URL" to:error];
  }
  all.path = fake::text_of([descriptor->outputURL path]);
  if (fake::take("capture_errors") || mkdir(all.path.c_str(), 0755) != 0) {
    return [self refuse:MTLCaptureErrorInvalidDescriptor because:"the output URL exists or cannot be made" to:error];
  }
  ++all.n_captures;
  all.active = true;
  all.in_scope = false;
  all.target = [descriptor->captureObject retain];
  all.lines.clear();
  return YES;
}
- (id<MTLCaptureScope>)newCaptureScopeWithCommandQueue:(id<MTLCommandQueue>)queue {
  FakeCaptureScope* scope = [[FakeCaptureScope alloc] init];
  scope->queue = [(id)queue retain];
  return scope;
}
- (void)stopCapture {
  if (fake::get("in_flight")) fake::misuse("stopCapture with work in flight");
  Trace& all = trace();
  const std::lock_guard lock(all.mutex);
  if (!all.active) fake::misuse("stopCapture without a capture");
  all.active = false;
  [all.target release];
  all.target = nil;
  std::ofstream file(all.path + "/trace.jsonl");
  for (const std::string& line : all.lines) file << line << '\n';
}
- (BOOL)isCapturing {
  return fake::current_capture() != 0;
}
@end
