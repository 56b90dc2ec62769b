// Ownership of an Objective-C object by a C++ object; the same with and without ARC.
#pragma once
#import <Foundation/Foundation.h>

#include <utility>

namespace moeflux::metal {

template <typename T>
class objc_ptr {
 public:
  objc_ptr() = default;
  // Takes over the reference that `new...`, `alloc` and `copy` give.
  static objc_ptr adopt(T object) {
    objc_ptr owner;
    owner.object_ = object;
    return owner;
  }
  // Adds a reference to an object that others, or the autorelease pool, keep.
  static objc_ptr retain(T object) {
    objc_ptr owner;
    owner.object_ = object;
    add_reference(object);
    return owner;
  }

  objc_ptr(const objc_ptr& other) : object_(other.object_) { add_reference(object_); }
  objc_ptr(objc_ptr&& other) noexcept : object_(other.object_) { other.object_ = nil; }
  objc_ptr& operator=(objc_ptr other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~objc_ptr() { drop_reference(object_); }

  T get() const { return object_; }
  explicit operator bool() const { return object_ != nil; }
  void reset() { *this = objc_ptr(); }

 private:
#if __has_feature(objc_arc)
  static void add_reference(T) {}
  static void drop_reference(T) {}
#else
  static void add_reference(T object) { [object retain]; }
  static void drop_reference(T object) { [object release]; }
#endif

  T object_ = nil;
};

}  // namespace moeflux::metal
