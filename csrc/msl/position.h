// A position or a size, as whatever type a kernel declares for it.
#pragma once

#include "vector.h"

namespace msl {

struct Position {
  metal::uint x, y, z;

  MSL_INLINE explicit operator metal::uint() const { return x; }
  MSL_INLINE explicit operator metal::ushort() const { return metal::ushort(x); }
  template <class T>
  MSL_INLINE explicit operator metal::vec<T, 2>() const {
    return {T(x), T(y)};
  }
  template <class T>
  MSL_INLINE explicit operator metal::vec<T, 3>() const {
    return {T(x), T(y), T(z)};
  }
};

}  // namespace msl
