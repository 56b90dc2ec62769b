// Libraries, functions and pipeline states.
#pragma once
#import <Foundation/Foundation.h>

typedef NS_ENUM(NSUInteger, MTLLanguageVersion) {
  MTLLanguageVersion3_1 = (3 << 16) + 1,
};

typedef NS_ENUM(NSInteger, MTLMathMode) {
  MTLMathModeSafe = 0,
  MTLMathModeRelaxed = 1,
  MTLMathModeFast = 2,
};

typedef NS_ENUM(NSUInteger, MTLLibraryError) {
  MTLLibraryErrorUnsupported = 1,
  MTLLibraryErrorInternal = 2,
  MTLLibraryErrorCompileFailure = 3,
  MTLLibraryErrorCompileWarning = 4,
  MTLLibraryErrorFunctionNotFound = 5,
};

typedef NS_ENUM(NSUInteger, MTLDataType) {
  MTLDataTypeUInt = 33,
};

typedef NSUInteger MTLPipelineOption;
enum : NSUInteger {
  MTLPipelineOptionNone = 0,
};

extern NSString* const MTLLibraryErrorDomain;

@interface MTLCompileOptions : NSObject {
 @public
  MTLLanguageVersion languageVersion;
  MTLMathMode mathMode;
}
- (void)setLanguageVersion:(MTLLanguageVersion)version;
- (void)setMathMode:(MTLMathMode)mode;
- (void)setFastMathEnabled:(BOOL)enabled;
@end

@interface MTLFunctionConstantValues : NSObject {
 @public
  NSMutableDictionary* values;
}
- (void)setConstantValue:(const void*)value type:(MTLDataType)type withName:(NSString*)name;
@end

@protocol MTLFunction <NSObject>
- (NSString*)name;
@end

@protocol MTLLibrary <NSObject>
- (NSString*)label;
- (void)setLabel:(NSString*)label;
- (id<MTLFunction>)newFunctionWithName:(NSString*)name
                        constantValues:(MTLFunctionConstantValues*)values
                                 error:(NSError**)error;
@end

@interface MTLComputePipelineDescriptor : NSObject {
 @public
  NSString* label;
  id<MTLFunction> computeFunction;
}
- (void)setLabel:(NSString*)label;
- (void)setComputeFunction:(id<MTLFunction>)function;
@end

@class MTLComputePipelineReflection;
#if __has_feature(objc_arc)
typedef __autoreleasing MTLComputePipelineReflection* MTLAutoreleasedComputePipelineReflection;
#else
typedef MTLComputePipelineReflection* MTLAutoreleasedComputePipelineReflection;
#endif

@protocol MTLComputePipelineState <NSObject>
- (NSUInteger)maxTotalThreadsPerThreadgroup;
@end
