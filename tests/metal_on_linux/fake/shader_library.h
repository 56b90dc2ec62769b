// Libraries of kernels that were compiled for the host.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <utility>

#import "fake.h"
#include "msl/run.h"

namespace fake {

// The functions of run.h in one shared object.
struct Host {
  explicit Host(const std::string& path);
  ~Host();
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  void* object;
  decltype(&msl_kernel_count) kernel_count;
  decltype(&msl_kernel_at) kernel_at;
  decltype(&msl_constant_count) constant_count;
  decltype(&msl_constant_at) constant_at;
  decltype(&msl_pipeline_create) pipeline_create;
  decltype(&msl_pipeline_destroy) pipeline_destroy;
  decltype(&msl_pipeline_kernel) pipeline_kernel;
  decltype(&msl_run) run;
};

// The compiler's log if it refuses the text.
struct Compiled {
  std::shared_ptr<Host> host;
  std::string log;
};
Compiled compile(const std::string& text);

}  // namespace fake

@interface FakeFunction : FakeObject <MTLFunction> {
 @public
  NSString* functionName;
  std::shared_ptr<fake::Host> host;
  msl_pipeline* pipeline;
}
@end

@interface FakePipelineState : FakeLabelled <MTLComputePipelineState> {
 @public
  FakeFunction* function;
}
@end

@interface FakeLibrary : FakeLabelled <MTLLibrary> {
 @public
  std::shared_ptr<fake::Host> host;
}
@end
