// Buffers and residency sets.
#pragma once
#import "fake.h"

@interface FakeBuffer : FakeObject <MTLBuffer> {
 @public
  void* address;
  NSUInteger nbytes;
  BOOL owned;
  void (^gone)(void*, NSUInteger);
}
@end

@interface FakeResidencySet : FakeObject <MTLResidencySet> {
 @public
  NSMutableSet* staged;
  NSMutableSet* committed;
}
@end

namespace fake {

// Null where Metal refuses.
FakeBuffer* new_buffer(NSUInteger nbytes);
FakeBuffer* new_buffer_of(void* address, NSUInteger nbytes, void (^deallocator)(void*, NSUInteger));
// The range of a buffer as a blit wants it.
char* blit_range(id<MTLBuffer> buffer, NSUInteger offset, NSUInteger nbytes, const char* what);
NSUInteger longest_buffer();

}  // namespace fake
