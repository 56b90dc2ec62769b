#import "memory.h"

#include <unistd.h>

#include <cstdlib>
#include <cstring>

namespace fake {
namespace {

// Shared memory as a system that recycles pages hands it out.
constexpr int kDirt = 0xa5;

std::size_t page_nbytes() {
  const std::int64_t chosen = get("page_nbytes");
  return chosen == 0 ? static_cast<std::size_t>(sysconf(_SC_PAGESIZE)) : static_cast<std::size_t>(chosen);
}

FakeBuffer* make(void* address, NSUInteger nbytes) {
  FakeBuffer* buffer = [[FakeBuffer alloc] init];
  buffer->address = address;
  buffer->nbytes = nbytes;
  add("allocated_nbytes", static_cast<std::int64_t>(nbytes));
  return buffer;
}

}  // namespace

NSUInteger longest_buffer() {
  const std::int64_t chosen = get("longest_buffer");
  return chosen == 0 ? NSUInteger{1} << 40 : static_cast<NSUInteger>(chosen);
}

FakeBuffer* new_buffer(NSUInteger nbytes) {
  if (nbytes == 0) misuse("newBufferWithLength: of 0 bytes");
  if (nbytes > longest_buffer()) misuse("newBufferWithLength: beyond maxBufferLength");
  if (take("nil_buffers")) return nil;
  void* address = nullptr;
  // Not a byte more than asked for, so that AddressSanitizer sees an overrun.
  if (posix_memalign(&address, 256, nbytes) != 0) return nil;
  std::memset(address, kDirt, nbytes);
  FakeBuffer* buffer = make(address, nbytes);
  buffer->owned = YES;
  return buffer;
}

FakeBuffer* new_buffer_of(void* address, NSUInteger nbytes, void (^deallocator)(void*, NSUInteger)) {
  if (address == nullptr || nbytes == 0) misuse("newBufferWithBytesNoCopy: without bytes");
  if (reinterpret_cast<std::uintptr_t>(address) % page_nbytes() != 0)
    misuse("newBufferWithBytesNoCopy: not page aligned");
  if (nbytes % page_nbytes() != 0) misuse("newBufferWithBytesNoCopy: length not in pages");
  if (nbytes > longest_buffer() || take("nil_buffers")) return nil;
  FakeBuffer* buffer = make(address, nbytes);
  if (deallocator) buffer->gone = Block_copy(deallocator);
  return buffer;
}

char* blit_range(id<MTLBuffer> buffer, NSUInteger offset, NSUInteger nbytes, const char* what) {
  const std::string text(what);
  if (buffer == nil) misuse(text + " without a buffer");
  if (nbytes == 0) misuse(text + " of 0 bytes");
  if (offset % 4 != 0 || nbytes % 4 != 0) misuse(text + " not in multiples of 4 bytes");
  if (offset > [buffer length] || nbytes > [buffer length] - offset) misuse(text + " beyond the end of a buffer");
  return static_cast<char*>([buffer contents]) + offset;
}

}  // namespace fake

@implementation FakeBuffer
- (void*)contents {
  return address;
}
- (NSUInteger)length {
  return nbytes;
}
- (void)dealloc {
  fake::add("allocated_nbytes", -static_cast<std::int64_t>(nbytes));
  if (owned) std::free(address);
  if (gone) {
    gone(address, nbytes);
    Block_release(gone);
  }
  [super dealloc];
}
@end

@implementation MTLResidencySetDescriptor
- (void)setLabel:(NSString*)text {
  [label release];
  label = [text copy];
}
- (void)setInitialCapacity:(NSUInteger)capacity {
  initialCapacity = capacity;
}
- (void)dealloc {
  [label release];
  [super dealloc];
}
@end

@implementation FakeResidencySet
- (id)init {
  if ((self = [super init])) {
    staged = [[NSMutableSet alloc] init];
    committed = [[NSMutableSet alloc] init];
  }
  return self;
}
- (void)addAllocation:(id<MTLAllocation>)allocation {
  if ([staged containsObject:allocation]) fake::misuse("an allocation is in its residency set already");
  [staged addObject:allocation];
}
- (void)removeAllocation:(id<MTLAllocation>)allocation {
  if (![staged containsObject:allocation]) fake::misuse("an allocation to remove is not in the residency set");
  [staged removeObject:allocation];
}
- (void)commit {
  fake::add("residency_commits", 1);
  [committed setSet:staged];
  std::int64_t nbytes = 0;
  for (NSEnumerator* each = [committed objectEnumerator]; FakeBuffer* buffer = [each nextObject];) {
    nbytes += static_cast<std::int64_t>(buffer->nbytes);
  }
  fake::set("resident_nbytes", nbytes);
}
- (void)requestResidency {
  fake::add("residency_requests", 1);
}
- (void)dealloc {
  [staged release];
  [committed release];
  [super dealloc];
}
@end
