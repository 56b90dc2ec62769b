// Elements of weight vectors: norm weights, convolutions, biases per head.
#pragma once
#include "dequant.h"

// Element i of a vector of any dtype, at any byte address.
inline float vector_element(device const uchar* weight, uint dtype, uint i) {
  return load_element(weight + ulong(i) * dtype_nbytes(dtype), low_bits(weight), dtype);
}
