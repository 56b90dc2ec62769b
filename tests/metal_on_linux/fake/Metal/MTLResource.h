// Sizes, buffers, and what GNUstep's Foundation lacks of Apple's.
#pragma once
#import <Foundation/Foundation.h>

// The SDK that this header follows.
#define __MAC_OS_X_VERSION_MAX_ALLOWED 150000
#ifndef API_AVAILABLE
#define API_AVAILABLE(...)
#endif

typedef double CFTimeInterval;

typedef struct {
  NSUInteger width, height, depth;
} MTLSize;

static inline MTLSize MTLSizeMake(NSUInteger width, NSUInteger height, NSUInteger depth) {
  MTLSize size = {width, height, depth};
  return size;
}

typedef NSUInteger MTLResourceOptions;
enum : NSUInteger {
  MTLResourceStorageModeShared = 0,
};

typedef NS_ENUM(NSUInteger, MTLStorageMode) {
  MTLStorageModeShared = 0,
};

@protocol MTLAllocation <NSObject>
@end

@protocol MTLBuffer <MTLAllocation>
- (void*)contents;
- (NSUInteger)length;
@end
