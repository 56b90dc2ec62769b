#import "shader_library.h"

#include <set>
#include <vector>

NSString* const MTLLibraryErrorDomain = @"MTLLibraryErrorDomain";

@implementation MTLCompileOptions
- (id)init {
  if ((self = [super init])) mathMode = MTLMathModeFast;
  return self;
}
- (void)setLanguageVersion:(MTLLanguageVersion)version {
  languageVersion = version;
}
- (void)setMathMode:(MTLMathMode)mode {
  fake::add("math_modes_set", 1);
  mathMode = mode;
}
- (void)setFastMathEnabled:(BOOL)enabled {
  mathMode = enabled ? MTLMathModeFast : MTLMathModeSafe;
}
// Systems before macOS 15 do not know math modes.
- (BOOL)respondsToSelector:(SEL)selector {
  if (fake::get("no_math_mode") && sel_isEqual(selector, @selector(setMathMode:))) return NO;
  return [super respondsToSelector:selector];
}
@end

@implementation MTLFunctionConstantValues
- (id)init {
  if ((self = [super init])) values = [[NSMutableDictionary alloc] init];
  return self;
}
- (void)setConstantValue:(const void*)value type:(MTLDataType)type withName:(NSString*)name {
  if (type != MTLDataTypeUInt) fake::misuse("a function constant of a type that the fake does not know");
  [values setObject:[NSData dataWithBytes:value length:sizeof(uint32_t)] forKey:name];
}
- (void)dealloc {
  [values release];
  [super dealloc];
}
@end

@implementation MTLComputePipelineDescriptor
- (void)setLabel:(NSString*)text {
  [label release];
  label = [text copy];
}
- (void)setComputeFunction:(id<MTLFunction>)function {
  [function retain];
  [computeFunction release];
  computeFunction = function;
}
- (void)dealloc {
  [label release];
  [computeFunction release];
  [super dealloc];
}
@end

@implementation FakeFunction
- (NSString*)name {
  return functionName;
}
- (void)dealloc {
  if (pipeline != nullptr) host->pipeline_destroy(pipeline);
  [functionName release];
  [super dealloc];
}
@end

@implementation FakePipelineState
- (NSUInteger)maxTotalThreadsPerThreadgroup {
  const std::int64_t chosen = fake::get("most_threads");
  return chosen == 0 ? MSL_MAX_THREADS : static_cast<NSUInteger>(chosen);
}
- (void)dealloc {
  [function release];
  [super dealloc];
}
@end

@implementation FakeLibrary
- (id<MTLFunction>)newFunctionWithName:(NSString*)name
                        constantValues:(MTLFunctionConstantValues*)values
                                 error:(NSError**)error {
  if (fake::take("function_errors")) {
    if (error) *error = fake::make_error(MTLLibraryErrorDomain, MTLLibraryErrorInternal, "injected function error");
    return nil;
  }
  // Metal takes no notice of values for constants that the library does not have.
  std::set<std::string> declared;
  for (std::size_t i = 0; i < host->constant_count(); ++i) declared.insert(host->constant_at(i)->name);
  std::vector<std::string> names;
  std::vector<msl_constant_value> given;
  for (NSEnumerator* each = [values->values keyEnumerator]; NSString* key = [each nextObject];) {
    if (declared.contains(fake::text_of(key))) names.push_back(fake::text_of(key));
  }
  for (const std::string& constant : names) {
    NSData* data = [values->values objectForKey:[NSString stringWithUTF8String:constant.c_str()]];
    given.push_back({constant.c_str(), [data bytes], [data length]});
  }
  msl_pipeline* pipeline = nullptr;
  char message[MSL_MESSAGE_BYTES] = "";
  const msl_status status = host->pipeline_create([name UTF8String], given.data(), given.size(), &pipeline, message);
  if (status != MSL_OK) {
    const NSInteger code = status == MSL_UNKNOWN_KERNEL ? MTLLibraryErrorFunctionNotFound : MTLLibraryErrorInternal;
    if (error) *error = fake::make_error(MTLLibraryErrorDomain, code, message);
    return nil;
  }
  FakeFunction* function = [[FakeFunction alloc] init];
  function->functionName = [name copy];
  function->host = host;
  function->pipeline = pipeline;
  return function;
}
@end
