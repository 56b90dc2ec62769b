// An autorelease pool that is emptied however its scope is left.
#pragma once

// Part of the Objective-C ABI: clang.llvm.org/docs/AutomaticReferenceCounting.html#runtime-support.
extern "C" {
void* objc_autoreleasePoolPush(void);
void objc_autoreleasePoolPop(void* pool);
}

namespace moeflux::metal {

// Every entry point and every turn of a loop that makes objects has one: Python's threads and ours bring none.
class AutoreleasePool {
 public:
  AutoreleasePool() : pool_(objc_autoreleasePoolPush()) {}
  ~AutoreleasePool() { objc_autoreleasePoolPop(pool_); }
  AutoreleasePool(const AutoreleasePool&) = delete;
  AutoreleasePool& operator=(const AutoreleasePool&) = delete;

 private:
  void* pool_;
};

}  // namespace moeflux::metal
