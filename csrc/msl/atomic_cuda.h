// Metal's atomics, all of them relaxed, as CUDA's.
#pragma once

#include "functions.h"

namespace metal {

enum memory_order { memory_order_relaxed };

template <class T>
struct atomic {
  T value;
};
using atomic_int = atomic<int>;
using atomic_uint = atomic<uint>;
using atomic_float = atomic<float>;

// Keeps a parameter from deciding what T is.
template <class T>
struct same {
  using type = T;
};

template <class T>
MSL_INLINE T atomic_load_explicit(const atomic<T>* object, memory_order) {
  return *const_cast<const volatile T*>(&object->value);
}
template <class T>
MSL_INLINE void atomic_store_explicit(atomic<T>* object, typename same<T>::type value, memory_order) {
  *const_cast<volatile T*>(&object->value) = value;
}
template <class T>
MSL_INLINE bool atomic_compare_exchange_weak_explicit(atomic<T>* object, T* expected, typename same<T>::type desired,
                                                      memory_order, memory_order) {
  const T before = atomicCAS(&object->value, *expected, desired);
  const bool exchanged = before == *expected;
  *expected = before;
  return exchanged;
}

#define MSL_ATOMIC(name, function)                                                                       \
  template <class T>                                                                                     \
  MSL_INLINE T atomic_##name##_explicit(atomic<T>* object, typename same<T>::type value, memory_order) { \
    return function(&object->value, value);                                                              \
  }
MSL_ATOMIC(exchange, atomicExch)
MSL_ATOMIC(fetch_add, atomicAdd)
MSL_ATOMIC(fetch_sub, atomicSub)
MSL_ATOMIC(fetch_max, atomicMax)
MSL_ATOMIC(fetch_min, atomicMin)
MSL_ATOMIC(fetch_and, atomicAnd)
MSL_ATOMIC(fetch_or, atomicOr)
MSL_ATOMIC(fetch_xor, atomicXor)
#undef MSL_ATOMIC

}  // namespace metal
