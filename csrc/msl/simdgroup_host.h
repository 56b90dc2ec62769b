// Barriers and simdgroup operations on the host.
#pragma once

#include "context.h"
#include "functions.h"
#include "race.h"

namespace msl {

// What the active lanes brought to an operation.
template <class T>
struct Exchange {
  const Simdgroup& simdgroup;
  uint32_t parity;
  uint32_t lane;  // the caller's

  bool active(uint32_t other) const { return other < MSL_SIMD_WIDTH && (simdgroup.active >> other & 1) != 0; }
  MSL_UNWATCHED T of(uint32_t other) const {
    T value;
    __builtin_memcpy(static_cast<void*>(&value), simdgroup.values[parity][other], sizeof(T));
    return value;
  }
};

template <class T>
MSL_UNWATCHED Exchange<T> exchange(const T& value, Site site) {
  static_assert(sizeof(T) <= sizeof(Simdgroup::values[0][0]), "too much for one simdgroup operation");
  Simdgroup& simdgroup = current->simdgroup();
  const uint32_t parity = simdgroup.parity, lane = current->lane();
  __builtin_memcpy(simdgroup.values[parity][lane], static_cast<const void*>(&value), sizeof(T));
  wait_for_simdgroup(site);
  return {simdgroup, parity, lane};
}

// Combines the values of the active lanes pairwise, as a butterfly does; the first lane to go on computes it for all.
template <class T, class Combine>
MSL_UNWATCHED T reduce(const T& value, Combine combine, Site site) {
  const Exchange<T> exchanged = exchange(value, site);
  Simdgroup& simdgroup = current->simdgroup();
  T result;
  if (!simdgroup.reduced[exchanged.parity]) {
    T values[MSL_SIMD_WIDTH];
    bool active[MSL_SIMD_WIDTH];
    for (uint32_t i = 0; i < MSL_SIMD_WIDTH; ++i) {
      active[i] = exchanged.active(i);
      if (active[i]) values[i] = exchanged.of(i);
    }
    for (uint32_t half = MSL_SIMD_WIDTH / 2; half > 0; half /= 2) {
      for (uint32_t i = 0; i < half; ++i) {
        if (!active[i + half]) continue;
        values[i] = active[i] ? combine(values[i], values[i + half]) : values[i + half];
        active[i] = true;
      }
    }
    __builtin_memcpy(simdgroup.result[exchanged.parity], static_cast<const void*>(&values[0]), sizeof(T));
    simdgroup.reduced[exchanged.parity] = true;
  }
  __builtin_memcpy(static_cast<void*>(&result), simdgroup.result[exchanged.parity], sizeof(T));
  return result;
}

template <class T, class Combine>
MSL_UNWATCHED T prefix(const T& value, T start, bool inclusive, Combine combine, Site site) {
  const Exchange<T> exchanged = exchange(value, site);
  T result = start;
  for (uint32_t i = 0; i < exchanged.lane + inclusive; ++i) {
    if (exchanged.active(i)) result = combine(result, exchanged.of(i));
  }
  return result;
}

// Metal leaves the value of a lane that takes no part undefined; here it is all ones, NaN in a float.
template <class T>
inline T value_of(const Exchange<T>& exchanged, uint32_t lane) {
  if (exchanged.active(lane)) return exchanged.of(lane);
  T undefined;
  __builtin_memset(static_cast<void*>(&undefined), 0xff, sizeof(T));
  return undefined;
}

}  // namespace msl

namespace metal {

enum class mem_flags : uint { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };
inline mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(uint(a) | uint(b)); }

#define MSL_SITE msl::Site site = msl::Site::here()

inline void threadgroup_barrier(mem_flags flags, MSL_SITE) { msl::wait_at_barrier(uint(flags), site); }
inline void simdgroup_barrier(mem_flags flags, MSL_SITE) { msl::wait_at_simdgroup_barrier(uint(flags), site); }

#define MSL_REDUCTION(name, expression)                                      \
  template <class T>                                                         \
  inline T simd_##name(T value, MSL_SITE) {                                  \
    return msl::reduce(value, [](T a, T b) { return T(expression); }, site); \
  }
MSL_REDUCTION(sum, a + b)
MSL_REDUCTION(product, a* b)
MSL_REDUCTION(max, max(a, b))
MSL_REDUCTION(min, min(a, b))
MSL_REDUCTION(and, a& b)
MSL_REDUCTION(or, a | b)
MSL_REDUCTION(xor, a ^ b)
#undef MSL_REDUCTION

#define MSL_PREFIX(name, start, expression)                                                   \
  template <class T>                                                                          \
  inline T simd_prefix_exclusive_##name(T value, MSL_SITE) {                                  \
    return msl::prefix(value, T(start), false, [](T a, T b) { return T(expression); }, site); \
  }                                                                                           \
  template <class T>                                                                          \
  inline T simd_prefix_inclusive_##name(T value, MSL_SITE) {                                  \
    return msl::prefix(value, T(start), true, [](T a, T b) { return T(expression); }, site);  \
  }
MSL_PREFIX(sum, 0, a + b)
MSL_PREFIX(product, 1, a* b)
#undef MSL_PREFIX

inline bool simd_any(bool value, MSL_SITE) {
  return msl::reduce(uint(value), [](uint a, uint b) { return a | b; }, site) != 0;
}
inline bool simd_all(bool value, MSL_SITE) {
  return msl::reduce(uint(value), [](uint a, uint b) { return a & b; }, site) != 0;
}

template <class T>
inline T simd_shuffle(T value, ushort lane, MSL_SITE) {
  return msl::value_of(msl::exchange(value, site), lane);
}
template <class T>
inline T simd_shuffle_xor(T value, ushort mask, MSL_SITE) {
  const auto exchanged = msl::exchange(value, site);
  return msl::value_of(exchanged, exchanged.lane ^ mask);
}
template <class T>
inline T simd_shuffle_down(T value, ushort distance, MSL_SITE) {
  const auto exchanged = msl::exchange(value, site);
  return msl::value_of(exchanged, exchanged.lane + distance);
}
template <class T>
inline T simd_shuffle_up(T value, ushort distance, MSL_SITE) {
  const auto exchanged = msl::exchange(value, site);
  return msl::value_of(exchanged, exchanged.lane - distance);
}
template <class T>
inline T simd_shuffle_rotate_down(T value, ushort distance, MSL_SITE) {
  const auto exchanged = msl::exchange(value, site);
  return msl::value_of(exchanged, (exchanged.lane + distance) % MSL_SIMD_WIDTH);
}
template <class T>
inline T simd_shuffle_rotate_up(T value, ushort distance, MSL_SITE) {
  const auto exchanged = msl::exchange(value, site);
  return msl::value_of(exchanged, (exchanged.lane - distance) % MSL_SIMD_WIDTH);
}
template <class T>
inline T simd_broadcast(T value, ushort lane, MSL_SITE) {
  return msl::value_of(msl::exchange(value, site), lane);
}
template <class T>
inline T simd_broadcast_first(T value, MSL_SITE) {
  const auto exchanged = msl::exchange(value, site);
  return exchanged.of(uint(__builtin_ctz(exchanged.simdgroup.active)));
}
inline bool simd_is_first(MSL_SITE) {
  const auto exchanged = msl::exchange(0, site);
  return exchanged.lane == uint(__builtin_ctz(exchanged.simdgroup.active));
}

}  // namespace metal
