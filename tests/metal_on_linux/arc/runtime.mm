// What automatic reference counting calls, on GCC's Objective-C runtime, which lacks it. Compiled without it. Weak
// references are left out.
#include <Block.h>
#import <Foundation/Foundation.h>
#include <dlfcn.h>

extern "C" {

extern void* _NSConcreteStackBlock[];
extern void* _NSConcreteMallocBlock[];
extern void* _NSConcreteGlobalBlock[];

// Blocks are no objects of this runtime: they may not be sent messages.
static bool is_block(id object) {
  const void* kind = *reinterpret_cast<void**>(object);
  return kind == _NSConcreteStackBlock || kind == _NSConcreteMallocBlock || kind == _NSConcreteGlobalBlock;
}

id objc_retain(id object) {
  if (object == nil) return nil;
  return is_block(object) ? static_cast<id>(_Block_copy(object)) : [object retain];
}

void objc_release(id object) {
  if (object == nil) return;
  if (is_block(object)) {
    _Block_release(object);
  } else {
    [object release];
  }
}

id objc_autorelease(id object) { return [object autorelease]; }
id objc_autoreleaseReturnValue(id object) { return [object autorelease]; }
id objc_retainAutorelease(id object) { return [objc_retain(object) autorelease]; }
id objc_retainAutoreleaseReturnValue(id object) { return [objc_retain(object) autorelease]; }
id objc_retainAutoreleasedReturnValue(id object) { return objc_retain(object); }
id objc_unsafeClaimAutoreleasedReturnValue(id object) { return object; }
id objc_retainBlock(id block) { return block == nil ? nil : static_cast<id>(_Block_copy(block)); }

void objc_storeStrong(id* place, id object) {
  const id previous = *place;
  *place = objc_retain(object);
  objc_release(previous);
}

// The ABI that clang calls gnustep-1.9 is GCC's with another version number in each module.
struct Module {
  unsigned long version;
  unsigned long size;
  const char* name;
  void* symbols;
};

__attribute__((visibility("hidden"))) void __objc_exec_class(Module* module) {
  static const auto next = reinterpret_cast<void (*)(Module*)>(dlsym(RTLD_NEXT, "__objc_exec_class"));
  module->version = 8;
  module->size = sizeof(Module);
  next(module);
}
}

// Sends a message: asks GCC's runtime for the method, then jumps to it with all argument registers as they were.
#if defined(__x86_64__)
asm(R"(
.text
.globl objc_msgSend
.hidden objc_msgSend
.type objc_msgSend,@function
objc_msgSend:
  .cfi_startproc
  push %rbp
  .cfi_def_cfa_offset 16
  .cfi_offset %rbp, -16
  mov %rsp,%rbp
  .cfi_def_cfa_register %rbp
  push %rdi
  push %rsi
  push %rdx
  push %rcx
  push %r8
  push %r9
  push %rax
  sub $136,%rsp
  movups %xmm0,(%rsp)
  movups %xmm1,16(%rsp)
  movups %xmm2,32(%rsp)
  movups %xmm3,48(%rsp)
  movups %xmm4,64(%rsp)
  movups %xmm5,80(%rsp)
  movups %xmm6,96(%rsp)
  movups %xmm7,112(%rsp)
  call objc_msg_lookup@PLT
  mov %rax,%r11
  movups (%rsp),%xmm0
  movups 16(%rsp),%xmm1
  movups 32(%rsp),%xmm2
  movups 48(%rsp),%xmm3
  movups 64(%rsp),%xmm4
  movups 80(%rsp),%xmm5
  movups 96(%rsp),%xmm6
  movups 112(%rsp),%xmm7
  add $136,%rsp
  pop %rax
  pop %r9
  pop %r8
  pop %rcx
  pop %rdx
  pop %rsi
  pop %rdi
  pop %rbp
  .cfi_def_cfa %rsp, 8
  jmp *%r11
  .cfi_endproc
.size objc_msgSend,.-objc_msgSend
.globl __gnustep_objcxx_personality_v0
.hidden __gnustep_objcxx_personality_v0
.type __gnustep_objcxx_personality_v0,@function
__gnustep_objcxx_personality_v0:
  jmp __gxx_personality_v0@PLT
.size __gnustep_objcxx_personality_v0,.-__gnustep_objcxx_personality_v0
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl objc_msgSend
.hidden objc_msgSend
.type objc_msgSend,%function
objc_msgSend:
  stp x29, x30, [sp, #-224]!
  mov x29, sp
  stp x0, x1, [sp, #16]
  stp x2, x3, [sp, #32]
  stp x4, x5, [sp, #48]
  stp x6, x7, [sp, #64]
  str x8, [sp, #80]
  stp q0, q1, [sp, #96]
  stp q2, q3, [sp, #128]
  stp q4, q5, [sp, #160]
  stp q6, q7, [sp, #192]
  bl objc_msg_lookup
  mov x16, x0
  ldp x0, x1, [sp, #16]
  ldp x2, x3, [sp, #32]
  ldp x4, x5, [sp, #48]
  ldp x6, x7, [sp, #64]
  ldr x8, [sp, #80]
  ldp q0, q1, [sp, #96]
  ldp q2, q3, [sp, #128]
  ldp q4, q5, [sp, #160]
  ldp q6, q7, [sp, #192]
  ldp x29, x30, [sp], #224
  br x16
.size objc_msgSend,.-objc_msgSend
.globl __gnustep_objcxx_personality_v0
.hidden __gnustep_objcxx_personality_v0
.type __gnustep_objcxx_personality_v0,%function
__gnustep_objcxx_personality_v0:
  b __gxx_personality_v0
.size __gnustep_objcxx_personality_v0,.-__gnustep_objcxx_personality_v0
)");
#else
#error "no objc_msgSend for this processor: build with --no-arc"
#endif
