#include "metal/residency.h"

#include "metal/autorelease_pool.h"

namespace moeflux::metal {

#if __MAC_OS_X_VERSION_MAX_ALLOWED >= 150000

namespace {

constexpr NSUInteger kExpectedMembers = 256;

API_AVAILABLE(macos(15.0)) id<MTLResidencySet> set_of(const objc_ptr<id<NSObject>>& set) {
  return static_cast<id<MTLResidencySet>>(set.get());
}

// A device may refuse; work then runs as on systems without residency sets.
objc_ptr<id<NSObject>> make_set(id<MTLDevice> device, id<MTLCommandQueue> queue) {
  if (@available(macOS 15.0, *)) {
    if (![device respondsToSelector:@selector(newResidencySetWithDescriptor:error:)]) return {};
    const auto descriptor = objc_ptr<MTLResidencySetDescriptor*>::adopt([[MTLResidencySetDescriptor alloc] init]);
    [descriptor.get() setLabel:@"moeflux"];
    [descriptor.get() setInitialCapacity:kExpectedMembers];
    NSError* error = nil;
    const auto set = objc_ptr<id<MTLResidencySet>>::adopt([device newResidencySetWithDescriptor:descriptor.get()
                                                                                          error:&error]);
    if (!set) return {};
    [queue addResidencySet:set.get()];
    return objc_ptr<id<NSObject>>::retain(set.get());
  }
  return {};
}

}  // namespace

Residency::Residency(id<MTLDevice> device, id<MTLCommandQueue> queue)
    : budget_([device recommendedMaxWorkingSetSize]), set_(make_set(device, queue)) {}

void Residency::add(id<MTLBuffer> buffer) {
  if (@available(macOS 15.0, *)) {
    const AutoreleasePool pool;
    const std::uint64_t length = [buffer length];
    const std::lock_guard lock(mutex_);
    if (!set_ || length > budget_ - nbytes_) return;
    [set_of(set_) addAllocation:buffer];
    members_.emplace((__bridge const void*)buffer, length);
    nbytes_ += length;
    staged_ = true;
  }
}

void Residency::remove(id<MTLBuffer> buffer) {
  if (@available(macOS 15.0, *)) {
    const AutoreleasePool pool;
    const std::lock_guard lock(mutex_);
    const auto member = members_.find((__bridge const void*)buffer);
    if (member == members_.end()) return;
    [set_of(set_) removeAllocation:buffer];
    nbytes_ -= member->second;
    members_.erase(member);
    staged_ = true;
  }
}

void Residency::apply() {
  if (@available(macOS 15.0, *)) {
    const AutoreleasePool pool;
    const std::lock_guard lock(mutex_);
    if (!staged_) return;
    [set_of(set_) commit];
    [set_of(set_) requestResidency];
    staged_ = false;
  }
}

#else

Residency::Residency(id<MTLDevice> device, id<MTLCommandQueue>) : budget_([device recommendedMaxWorkingSetSize]) {}
void Residency::add(id<MTLBuffer>) {}
void Residency::remove(id<MTLBuffer>) {}
void Residency::apply() {}

#endif

std::uint64_t Residency::nbytes() const {
  const std::lock_guard lock(mutex_);
  return nbytes_;
}

}  // namespace moeflux::metal
