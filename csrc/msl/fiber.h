// Stackful coroutines: one per thread of a threadgroup, switched by hand. Knows stacks and registers only.
#pragma once

#include <cstddef>

namespace msl {

// Where a suspended fiber goes on: its stack pointer.
using Fiber = void*;

// Runs `to` and keeps in *from where the caller goes on.
void switch_fiber(Fiber* from, Fiber to);

// A fiber that will call `function`, which must not return, on the stack that ends at `top`.
Fiber make_fiber(std::byte* top, void (*function)());

// Stacks of equal size with an unmapped page below each, so that an overflow faults at once.
class Stacks {
 public:
  Stacks() = default;
  ~Stacks();
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;

  // Throws std::bad_alloc. The stacks of earlier calls are gone.
  void allocate(std::size_t count);
  std::size_t count() const { return count_; }
  // The end of stack i, a little lower for each: equal low bits would put all frames into the same cache sets.
  std::byte* top(std::size_t i) const;
  bool contains(const void* address) const;
  std::byte* begin() const { return memory_; }
  std::size_t nbytes() const;

 private:
  std::byte* memory_ = nullptr;
  std::size_t count_ = 0;
};

}  // namespace msl
