// Passes and their encoders.
#pragma once
#import <Metal/MTLCounters.h>
#import <Metal/MTLLibrary.h>
#import <Metal/MTLResource.h>

// Apple has a class of its own for each kind of pass; the members are the same.
@interface FakeSampleAttachment : NSObject {
 @public
  id<MTLCounterSampleBuffer> sampleBuffer;
  NSUInteger start;
  NSUInteger end;
}
- (void)setSampleBuffer:(id<MTLCounterSampleBuffer>)buffer;
- (void)setStartOfEncoderSampleIndex:(NSUInteger)index;
- (void)setEndOfEncoderSampleIndex:(NSUInteger)index;
@end

@interface MTLComputePassSampleBufferAttachmentDescriptor : FakeSampleAttachment
@end

@interface MTLBlitPassSampleBufferAttachmentDescriptor : FakeSampleAttachment
@end

@interface MTLComputePassSampleBufferAttachmentDescriptorArray : NSObject {
 @public
  MTLComputePassSampleBufferAttachmentDescriptor* first;
}
- (MTLComputePassSampleBufferAttachmentDescriptor*)objectAtIndexedSubscript:(NSUInteger)index;
@end

@interface MTLBlitPassSampleBufferAttachmentDescriptorArray : NSObject {
 @public
  MTLBlitPassSampleBufferAttachmentDescriptor* first;
}
- (MTLBlitPassSampleBufferAttachmentDescriptor*)objectAtIndexedSubscript:(NSUInteger)index;
@end

@interface MTLComputePassDescriptor : NSObject {
 @public
  MTLComputePassSampleBufferAttachmentDescriptorArray* attachments;
}
+ (MTLComputePassDescriptor*)computePassDescriptor;
- (MTLComputePassSampleBufferAttachmentDescriptorArray*)sampleBufferAttachments;
@end

@interface MTLBlitPassDescriptor : NSObject {
 @public
  MTLBlitPassSampleBufferAttachmentDescriptorArray* attachments;
}
+ (MTLBlitPassDescriptor*)blitPassDescriptor;
- (MTLBlitPassSampleBufferAttachmentDescriptorArray*)sampleBufferAttachments;
@end

@protocol MTLCommandEncoder <NSObject>
- (NSString*)label;
- (void)setLabel:(NSString*)label;
- (void)endEncoding;
@end

@protocol MTLComputeCommandEncoder <MTLCommandEncoder>
- (void)setComputePipelineState:(id<MTLComputePipelineState>)state;
- (void)setBuffer:(id<MTLBuffer>)buffer offset:(NSUInteger)offset atIndex:(NSUInteger)index;
- (void)setBytes:(const void*)bytes length:(NSUInteger)length atIndex:(NSUInteger)index;
- (void)dispatchThreadgroups:(MTLSize)threadgroups threadsPerThreadgroup:(MTLSize)threads;
@end

@protocol MTLBlitCommandEncoder <MTLCommandEncoder>
- (void)copyFromBuffer:(id<MTLBuffer>)source
          sourceOffset:(NSUInteger)sourceOffset
              toBuffer:(id<MTLBuffer>)destination
     destinationOffset:(NSUInteger)destinationOffset
                  size:(NSUInteger)size;
- (void)fillBuffer:(id<MTLBuffer>)buffer range:(NSRange)range value:(uint8_t)value;
@end
