// Which allocations the system keeps resident for the GPU, within what the device recommends.
#pragma once
#import <Metal/Metal.h>

#include <cstdint>
#include <map>
#include <mutex>

#include "metal/objc_ptr.h"

namespace moeflux::metal {

// One set for the device, attached to its queue. Changes are staged and applied once per submission. Does nothing where
// the system has no residency sets (before macOS 15). Any thread may call.
class Residency {
 public:
  Residency(id<MTLDevice> device, id<MTLCommandQueue> queue);

  // An allocation beyond the recommended working set is left to the system's paging.
  void add(id<MTLBuffer> buffer);
  void remove(id<MTLBuffer> buffer);
  // Applies what was staged and asks the system to make it resident.
  void apply();

  bool available() const { return static_cast<bool>(set_); }
  std::uint64_t nbytes() const;
  std::uint64_t budget() const { return budget_; }

 private:
  std::uint64_t budget_;
  objc_ptr<id<NSObject>> set_;  // MTLResidencySet, which older systems do not declare
  mutable std::mutex mutex_;
  std::map<const void*, std::uint64_t> members_;
  std::uint64_t nbytes_ = 0;
  bool staged_ = false;
};

}  // namespace moeflux::metal
