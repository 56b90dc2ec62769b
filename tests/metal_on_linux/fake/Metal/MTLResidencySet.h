// Sets of allocations that stay resident.
#pragma once
#import <Metal/MTLResource.h>

@interface MTLResidencySetDescriptor : NSObject {
 @public
  NSString* label;
  NSUInteger initialCapacity;
}
- (void)setLabel:(NSString*)label;
- (void)setInitialCapacity:(NSUInteger)capacity;
@end

@protocol MTLResidencySet <NSObject>
- (void)addAllocation:(id<MTLAllocation>)allocation;
- (void)removeAllocation:(id<MTLAllocation>)allocation;
- (void)commit;
- (void)requestResidency;
@end
