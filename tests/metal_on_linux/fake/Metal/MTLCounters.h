// Samples of the GPU's clock.
#pragma once
#import <Metal/MTLResource.h>

typedef uint64_t MTLTimestamp;

typedef struct {
  uint64_t timestamp;
} MTLCounterResultTimestamp;

static const uint64_t MTLCounterErrorValue = ~0ULL;

typedef NS_ENUM(NSUInteger, MTLCounterSamplingPoint) {
  MTLCounterSamplingPointAtStageBoundary = 0,
};

extern NSString* const MTLCommonCounterSetTimestamp;
extern NSString* const MTLCounterErrorDomain;

@protocol MTLCounterSet <NSObject>
- (NSString*)name;
@end

@protocol MTLCounterSampleBuffer <NSObject>
- (NSData*)resolveCounterRange:(NSRange)range;
@end

@interface MTLCounterSampleBufferDescriptor : NSObject {
 @public
  id<MTLCounterSet> counterSet;
  MTLStorageMode storageMode;
  NSUInteger sampleCount;
}
- (void)setCounterSet:(id<MTLCounterSet>)set;
- (void)setStorageMode:(MTLStorageMode)mode;
- (void)setSampleCount:(NSUInteger)count;
@end
