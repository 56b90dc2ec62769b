// What everything that a Metal device makes has in common.
#pragma once
#import <Metal/Metal.h>

#include "metal/objc_ptr.h"
#include "metal/residency.h"
#include "thread.h"

namespace moeflux::metal {

struct DeviceObjects {
  DeviceObjects(objc_ptr<id<MTLDevice>> device, objc_ptr<id<MTLCommandQueue>> queue)
      : device(std::move(device)), queue(std::move(queue)), residency(this->device.get(), this->queue.get()) {}

  // Throws DeviceError in a forked child, where Metal does not work.
  void check_process() const { owner.check("the metal device"); }

  OwnerProcess owner;
  objc_ptr<id<MTLDevice>> device;
  objc_ptr<id<MTLCommandQueue>> queue;
  Residency residency;
};

}  // namespace moeflux::metal
