#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

// Saves what a called function has to keep (System V and AAPCS64), exchanges the stacks, restores.
#if defined(__x86_64__)
asm(R"(
.text
.p2align 4
.hidden msl_switch_fiber
.globl msl_switch_fiber
.type msl_switch_fiber,@function
msl_switch_fiber:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size msl_switch_fiber,.-msl_switch_fiber
)");
#elif defined(__aarch64__)
asm(R"(
.text
.p2align 4
.hidden msl_switch_fiber
.globl msl_switch_fiber
.type msl_switch_fiber,%function
msl_switch_fiber:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size msl_switch_fiber,.-msl_switch_fiber
)");
#else
#error "fibers are written for x86-64 and aarch64"
#endif

extern "C" __attribute__((visibility("hidden"))) void msl_switch_fiber(void** from, void* to);

namespace msl {
namespace {

constexpr std::size_t STACK_BYTES = 256 * 1024;  // mapped when touched; sanitizers need a multiple of the usual
constexpr std::size_t GUARD_BYTES = 64 * 1024;   // a multiple of every page size in use
constexpr std::size_t STAGGER_BYTES = 704;
constexpr std::size_t STAGGER_RANGE = 8192;

}  // namespace

void switch_fiber(Fiber* from, Fiber to) { msl_switch_fiber(from, to); }

Fiber make_fiber(std::byte* top, void (*function)()) {
  auto* word = reinterpret_cast<std::uintptr_t*>(reinterpret_cast<std::uintptr_t>(top) & ~std::uintptr_t{15});
#if defined(__x86_64__)
  *--word = 0;  // where a return address would be: the function starts with the stack of a called one
  *--word = reinterpret_cast<std::uintptr_t>(function);
  for (int i = 0; i < 6; ++i) *--word = 0;
#else
  for (int i = 0; i < 20; ++i) *--word = 0;
  word[11] = reinterpret_cast<std::uintptr_t>(function);  // x30
#endif
  return word;
}

Stacks::~Stacks() {
  if (memory_ != nullptr) ::munmap(memory_, nbytes());
}

std::size_t Stacks::nbytes() const { return count_ * STACK_BYTES; }

void Stacks::allocate(std::size_t count) {
  if (memory_ != nullptr) ::munmap(memory_, nbytes());
  memory_ = nullptr;
  count_ = 0;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* memory = ::mmap(nullptr, count * STACK_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<std::byte*>(memory);
  count_ = count;
  for (std::size_t i = 0; i < count; ++i) {
    if (::mprotect(memory_ + i * STACK_BYTES, GUARD_BYTES, PROT_NONE) != 0) throw std::bad_alloc();
  }
}

std::byte* Stacks::top(std::size_t i) const {
  return memory_ + (i + 1) * STACK_BYTES - i * STAGGER_BYTES % STAGGER_RANGE;
}

bool Stacks::contains(const void* address) const {
  const auto offset = reinterpret_cast<std::uintptr_t>(address) - reinterpret_cast<std::uintptr_t>(memory_);
  return offset < nbytes();
}

}  // namespace msl
