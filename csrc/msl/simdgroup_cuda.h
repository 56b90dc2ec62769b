// Barriers and simdgroup operations as CUDA's warp operations of all lanes.
#pragma once

#include "functions.h"

namespace msl {

constexpr unsigned ALL_LANES = 0xffffffffu;

// What lane `lane` brought, any type, moved in words.
template <class T>
MSL_INLINE T from_lane(const T& value, metal::uint lane) {
  constexpr int n_words = (sizeof(T) + 3) / 4;
  unsigned words[n_words] = {};
  memcpy(words, &value, sizeof(T));
  for (int i = 0; i < n_words; ++i) words[i] = __shfl_sync(ALL_LANES, words[i], int(lane));
  T result;
  memcpy(static_cast<void*>(&result), words, sizeof(T));
  return result;
}
MSL_INLINE float from_lane(float value, metal::uint lane) { return __shfl_sync(ALL_LANES, value, int(lane)); }
MSL_INLINE metal::uint from_lane(metal::uint value, metal::uint lane) {
  return __shfl_sync(ALL_LANES, value, int(lane));
}

template <class T, class Combine>
MSL_INLINE T reduce(T value, Combine combine) {
  for (metal::uint distance = 16; distance > 0; distance /= 2) {
    value = combine(value, from_lane(value, lane_index() ^ distance));
  }
  return value;
}

// The inclusive scan, by doubling distances.
template <class T, class Combine>
MSL_INLINE T scan(T value, Combine combine) {
  for (metal::uint distance = 1; distance < 32; distance *= 2) {
    const T before = from_lane(value, (lane_index() - distance) % 32);
    if (lane_index() >= distance) value = combine(before, value);
  }
  return value;
}

}  // namespace msl

namespace metal {

enum class mem_flags : uint { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };
MSL_INLINE mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(uint(a) | uint(b)); }

MSL_INLINE void threadgroup_barrier(mem_flags) { __syncthreads(); }
MSL_INLINE void simdgroup_barrier(mem_flags) { __syncwarp(); }

#define MSL_REDUCTION(name, expression)          \
  struct combine_##name {                        \
    template <class T>                           \
    MSL_INLINE T operator()(T a, T b) const {    \
      return T(expression);                      \
    }                                            \
  };                                             \
  template <class T>                             \
  MSL_INLINE T simd_##name(T value) {            \
    return msl::reduce(value, combine_##name()); \
  }
MSL_REDUCTION(sum, a + b)
MSL_REDUCTION(product, a* b)
MSL_REDUCTION(max, max(a, b))
MSL_REDUCTION(min, min(a, b))
MSL_REDUCTION(and, a& b)
MSL_REDUCTION(or, a | b)
MSL_REDUCTION(xor, a ^ b)
#undef MSL_REDUCTION

#define MSL_PREFIX(name, start)                                                                        \
  template <class T>                                                                                   \
  MSL_INLINE T simd_prefix_inclusive_##name(T value) {                                                 \
    return msl::scan(value, combine_##name());                                                         \
  }                                                                                                    \
  template <class T>                                                                                   \
  MSL_INLINE T simd_prefix_exclusive_##name(T value) {                                                 \
    const T before = msl::from_lane(msl::scan(value, combine_##name()), (msl::lane_index() - 1) % 32); \
    return msl::lane_index() == 0 ? T(start) : before;                                                 \
  }
MSL_PREFIX(sum, 0)
MSL_PREFIX(product, 1)
#undef MSL_PREFIX

MSL_INLINE bool simd_any(bool value) { return __any_sync(msl::ALL_LANES, value); }
MSL_INLINE bool simd_all(bool value) { return __all_sync(msl::ALL_LANES, value); }
MSL_INLINE bool simd_is_first() { return msl::lane_index() == 0; }

#define MSL_SHUFFLE(name, lane)                        \
  template <class T>                                   \
  MSL_INLINE T simd_##name(T value, ushort argument) { \
    return msl::from_lane(value, (lane) % 32);         \
  }
MSL_SHUFFLE(shuffle, argument)
MSL_SHUFFLE(broadcast, argument)
MSL_SHUFFLE(shuffle_xor, msl::lane_index() ^ argument)
MSL_SHUFFLE(shuffle_down, msl::lane_index() + argument)
MSL_SHUFFLE(shuffle_up, msl::lane_index() - argument)
MSL_SHUFFLE(shuffle_rotate_down, msl::lane_index() + argument)
MSL_SHUFFLE(shuffle_rotate_up, msl::lane_index() - argument)
#undef MSL_SHUFFLE
template <class T>
MSL_INLINE T simd_broadcast_first(T value) {
  return msl::from_lane(value, 0);
}

}  // namespace metal
