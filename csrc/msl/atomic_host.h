// Metal's atomics on the host. All of Metal's orders are relaxed.
#pragma once

#include "functions.h"
#include "race.h"

namespace metal {

enum memory_order { memory_order_relaxed };

template <class T>
struct atomic {
  T value;
};
using atomic_int = atomic<int>;
using atomic_uint = atomic<uint>;
using atomic_float = atomic<float>;
using atomic_bool = atomic<bool>;

// Keeps a parameter from deciding what T is.
template <class T>
struct same {
  using type = T;
};

template <class T>
MSL_UNWATCHED T atomic_load_explicit(const atomic<T>* object, memory_order) {
  msl::race::note(object, sizeof(T), msl::race::Access::ATOMIC_UPDATE, __builtin_return_address(0));
  T value;
  __atomic_load(&object->value, &value, __ATOMIC_RELAXED);
  return value;
}
template <class T>
MSL_UNWATCHED void atomic_store_explicit(atomic<T>* object, typename same<T>::type value, memory_order) {
  msl::race::note(object, sizeof(T), msl::race::Access::ATOMIC_WRITE, __builtin_return_address(0));
  __atomic_store(&object->value, &value, __ATOMIC_RELAXED);
}
template <class T>
MSL_UNWATCHED T atomic_exchange_explicit(atomic<T>* object, typename same<T>::type value, memory_order) {
  msl::race::note(object, sizeof(T), msl::race::Access::ATOMIC_UPDATE, __builtin_return_address(0));
  T before;
  __atomic_exchange(&object->value, &value, &before, __ATOMIC_RELAXED);
  return before;
}
template <class T>
MSL_UNWATCHED bool atomic_compare_exchange_weak_explicit(atomic<T>* object, T* expected, typename same<T>::type desired,
                                                         memory_order, memory_order) {
  msl::race::note(object, sizeof(T), msl::race::Access::ATOMIC_UPDATE, __builtin_return_address(0));
  return __atomic_compare_exchange(&object->value, expected, &desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

#define MSL_FETCH(name, expression)                                                                                \
  template <class T>                                                                                               \
  MSL_UNWATCHED T atomic_fetch_##name##_explicit(atomic<T>* object, typename same<T>::type value, memory_order) {  \
    msl::race::note(object, sizeof(T), msl::race::Access::ATOMIC_UPDATE, __builtin_return_address(0));             \
    T before;                                                                                                      \
    __atomic_load(&object->value, &before, __ATOMIC_RELAXED);                                                      \
    for (;;) {                                                                                                     \
      T after = T(expression);                                                                                     \
      if (__atomic_compare_exchange(&object->value, &before, &after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) { \
        return before;                                                                                             \
      }                                                                                                            \
    }                                                                                                              \
  }
MSL_FETCH(add, before + value)
MSL_FETCH(sub, before - value)
MSL_FETCH(max, before < value ? value : before)
MSL_FETCH(min, value < before ? value : before)
MSL_FETCH(and, before& value)
MSL_FETCH(or, before | value)
MSL_FETCH(xor, before ^ value)
#undef MSL_FETCH

}  // namespace metal
