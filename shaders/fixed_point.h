// Activations as integers of three digits, for processors that multiply four bytes by four at once: every 32 columns
// become 24-bit integers and a unit, x = unit * integer, which keeps what a float32 sum keeps. Sums of codes times
// integers are exact:
//   sum_c (scale * code + bias) * x = scale * (sum_c code * integer) * unit + bias * (sum_c integer) * unit.
#pragma once
#include "dequant.h"

enum FixedPoint : uint {
  DIGITS = 3,
  DIGIT_VECTORS = 2,                                // uint4 of one digit of 32 columns
  CHUNK_VECTORS = DIGITS * DIGIT_VECTORS + 1,       // the last one holds the unit and unit * sum of the integers
  BLOCK_VECTORS = BLOCK_COLS / 32 * CHUNK_VECTORS,  // an odd number a chunk: neighbouring lanes meet no bank twice
};
static_assert(BLOCK_VECTORS * 4 <= BLOCK_FLOATS, "blocks of integers take the memory of blocks of floats");

// Whether codes of so many bits are multiplied so: those whose bytes lie in a word without crossing into the next.
template <uint bits>
inline bool in_fixed_point() {
  return fixed_point != 0 && (bits == 4 || bits == 8);
}

// The sum of four unsigned bytes times four signed ones, with `sum` added. A template, so that a function of a target
// whose processors have an instruction for it goes before.
template <typename Word>
inline int dot_of_bytes(Word codes, Word digits, int sum) {
  const uchar4 code = as_type<uchar4>(codes);
  const char4 digit = as_type<char4>(digits);
  return sum + int(code.x) * digit.x + int(code.y) * digit.y + int(code.z) * digit.z + int(code.w) * digit.w;
}

// What one step of the integers is worth, a power of two, and its inverse: `largest` has the bits of the largest
// magnitude. Magnitudes below 2^-100 count as zero; what is not finite makes the unit NaN.
struct FixedPointUnit {
  float value;
  float inverse;
};

inline FixedPointUnit fixed_point_unit(uint largest) {
  FixedPointUnit unit = {0.0f, 0.0f};
  if (largest >= 0x7f800000) {
    unit.value = NAN;
  } else if (largest >= 0x0d800000) {
    // Digits of at most 127 reach a little less than 2^23: mantissas above it take the next exponent.
    const uint exponent = (largest + 0x010104) >> 23;
    unit.value = as_type<float>((exponent - 22) << 23);
    unit.inverse = as_type<float>((276 - exponent) << 23);
  }
  return unit;
}

// Four columns of a digit as codes of `bits` bits come out of their words: the columns of a quad lie 8 / bits apart.
template <uint bits>
inline uint digit_quad(thread const uint* integers, uint quad, uint digit) {
  const uint stride = 8 / bits, first = quad / stride * 4 * stride + quad % stride, shift = 8 * digit;
  return as_type<uint>(uchar4(uchar(integers[first] >> shift), uchar(integers[first + stride] >> shift),
                              uchar(integers[first + 2 * stride] >> shift),
                              uchar(integers[first + 3 * stride] >> shift)));
}

template <uint bits>
inline uint code_quad(thread const uint* words, uint quad) {
  return bits == 8 ? words[quad] : words[quad / 2] >> quad % 2 * 4 & 0x0f0f0f0f;
}

// Stages `count` columns, a multiple of 32, for codes of `bits` bits. All threads must take part.
template <uint bits>
inline void stage_fixed_point(device const float* x, uint count, threadgroup uint4* staged, uint thread_index) {
  const bool aligned = (reinterpret_cast<ulong>(x) & 15) == 0;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  // Four neighbouring lanes have a chunk.
  for (uint i = thread_index; i < n_tiles(count, 256) * 32; i += VECTOR_SIMDGROUPS * SIMDGROUP_LANES) {
    const bool inside = i * 8 < count;
    float values[8] = {};
    if (inside && aligned) {
      const float4 low = reinterpret_cast<device const float4*>(x)[2 * i];
      const float4 high = reinterpret_cast<device const float4*>(x)[2 * i + 1];
      values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
      values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
    } else if (inside) {
#pragma unroll
      for (uint j = 0; j < 8; ++j) values[j] = x[i * 8 + j];
    }
    uint largest = 0;
#pragma unroll
    for (uint j = 0; j < 8; ++j) largest = max(largest, as_type<uint>(values[j]) & 0x7fffffff);
    largest = max(largest, simd_shuffle_xor(largest, ushort(1)));
    largest = max(largest, simd_shuffle_xor(largest, ushort(2)));
    const FixedPointUnit unit = fixed_point_unit(largest);
    uint integers[8];
    int sum = 0;
#pragma unroll
    for (uint j = 0; j < 8; ++j) {
      // What is not finite is told by the unit, and has no integer.
      const int integer = unit.inverse == 0.0f ? 0 : int(rint(values[j] * unit.inverse));
      sum += integer;
      // Each byte becomes a digit of -128 .. 127.
      integers[j] = (uint(integer) + 0x808080) ^ 0x808080;
    }
    sum += simd_shuffle_xor(sum, ushort(1));
    sum += simd_shuffle_xor(sum, ushort(2));
    if (!inside) continue;
    threadgroup uint4* chunk = staged + i / 4 * CHUNK_VECTORS;
#pragma unroll
    for (uint digit = 0; digit < DIGITS; ++digit) {
      reinterpret_cast<threadgroup uint2*>(chunk + digit * DIGIT_VECTORS)[i % 4] =
          uint2(digit_quad<bits>(integers, 0, digit), digit_quad<bits>(integers, 1, digit));
    }
    if (i % 4 == 0) {
      reinterpret_cast<threadgroup float2*>(chunk + CHUNK_VECTORS - 1)[0] = float2(unit.value, float(sum) * unit.value);
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

// Adds the products of a staged chunk with `words`, the codes of n_rows rows.
template <uint bits, uint n_rows>
inline void add_fixed_point_products(thread const uint* words, thread const float* scales, thread const float* biases,
                                     threadgroup const uint4* chunk, thread float* sums) {
  int products[n_rows * DIGITS] = {};
#pragma unroll
  for (uint digit = 0; digit < DIGITS; ++digit) {
#pragma unroll
    for (uint i = 0; i < DIGIT_VECTORS; ++i) {
      const uint4 digits = chunk[digit * DIGIT_VECTORS + i];
#pragma unroll
      for (uint r = 0; r < n_rows; ++r) {
        thread const uint* codes = words + r * bits;
        int product = products[r * DIGITS + digit];
        product = dot_of_bytes(code_quad<bits>(codes, 4 * i), digits.x, product);
        product = dot_of_bytes(code_quad<bits>(codes, 4 * i + 1), digits.y, product);
        product = dot_of_bytes(code_quad<bits>(codes, 4 * i + 2), digits.z, product);
        products[r * DIGITS + digit] = dot_of_bytes(code_quad<bits>(codes, 4 * i + 3), digits.w, product);
      }
    }
  }
  const float2 unit = reinterpret_cast<threadgroup const float2*>(chunk + CHUNK_VECTORS - 1)[0];
#pragma unroll
  for (uint r = 0; r < n_rows; ++r) {
    thread const int* product = products + r * DIGITS;
    const float total = fma(float(product[2] * 256 + product[1]), 256.0f, float(product[0]));
    sums[r] = fma(total * scales[r], unit.x, fma(biases[r], unit.y, sums[r]));
  }
}
