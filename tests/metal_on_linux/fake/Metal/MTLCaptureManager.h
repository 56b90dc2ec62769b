// GPU traces.
#pragma once
#import <Metal/MTLCommandBuffer.h>

typedef NS_ENUM(NSInteger, MTLCaptureDestination) {
  MTLCaptureDestinationDeveloperTools = 1,
  MTLCaptureDestinationGPUTraceDocument = 2,
};

typedef NS_ENUM(NSInteger, MTLCaptureError) {
  MTLCaptureErrorNotSupported = 1,
  MTLCaptureErrorAlreadyCapturing = 2,
  MTLCaptureErrorInvalidDescriptor = 3,
};

extern NSString* const MTLCaptureErrorDomain;

@protocol MTLCaptureScope <NSObject>
- (void)beginScope;
- (void)endScope;
- (NSString*)label;
- (void)setLabel:(NSString*)label;
@end

@interface MTLCaptureDescriptor : NSObject {
 @public
  id captureObject;
  MTLCaptureDestination destination;
  NSURL* outputURL;
}
- (void)setCaptureObject:(id)object;
- (void)setDestination:(MTLCaptureDestination)destination;
- (void)setOutputURL:(NSURL*)url;
@end

@interface MTLCaptureManager : NSObject
+ (MTLCaptureManager*)sharedCaptureManager;
- (BOOL)supportsDestination:(MTLCaptureDestination)destination;
- (BOOL)startCaptureWithDescriptor:(MTLCaptureDescriptor*)descriptor error:(NSError**)error;
- (id<MTLCaptureScope>)newCaptureScopeWithCommandQueue:(id<MTLCommandQueue>)queue;
- (void)stopCapture;
- (BOOL)isCapturing;
@end
