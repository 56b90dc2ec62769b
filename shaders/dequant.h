// Reads weights of every quant format, at any address: whole rows of codes in words, and single elements.
#pragma once
#include "common.h"
#include "tiles.h"

// A stored matrix; scales and biases are only read if it is quantised. Any byte address is allowed. Functions take the
// format by value and never out of an array, so that compilers know it.
struct Matrix {
  device const uchar* weight;
  device const uchar* scales;
  device const uchar* biases;
  uint rows;
  uint cols;
  uint quant_format;
};

// One row of it. Vector loads need the low bits of the addresses to be zero.
struct MatrixRow {
  device const uchar* weight;
  device const uchar* scales;
  device const uchar* biases;
  uint weight_low_bits;
  uint scale_low_bits;
};

// What a centred code becomes: weight = scale * code + bias. Small codes around zero keep the rounding of sums small.
struct Affine {
  float scale;
  float bias;
};

inline uint dtype_nbytes(uint dtype) { return dtype == FLOAT32 ? 4 : 2; }

inline uint low_bits(device const uchar* address) { return uint(reinterpret_cast<ulong>(address)) & 15; }

inline MatrixRow matrix_row(Matrix matrix, uint row) {
  const uint bits = format_bits(matrix.quant_format), dtype_size = dtype_nbytes(format_dtype(matrix.quant_format));
  MatrixRow result;
  if (bits == 0) {
    result.weight = matrix.weight + ulong(row) * matrix.cols * dtype_size;
    result.scales = matrix.scales;
    result.biases = matrix.biases;
    result.scale_low_bits = 0;
  } else {
    const ulong group = ulong(row) * (matrix.cols / format_group_size(matrix.quant_format));
    result.weight = matrix.weight + ulong(row) * (matrix.cols / 8) * bits;
    result.scales = matrix.scales + group * dtype_size;
    result.biases = matrix.biases + group * dtype_size;
    result.scale_low_bits = low_bits(result.scales) | low_bits(result.biases);
  }
  result.weight_low_bits = low_bits(result.weight);
  return result;
}

inline uint load_uint16(device const uchar* address, uint low_bits) {
  if (low_bits % 2 == 0) return *reinterpret_cast<device const ushort*>(address);
  return uint(address[0]) | uint(address[1]) << 8;
}

inline uint load_uint32(device const uchar* address, uint low_bits) {
  if (low_bits % 4 == 0) return *reinterpret_cast<device const uint*>(address);
  return load_uint16(address, low_bits) | load_uint16(address + 2, low_bits) << 16;
}

// n_words neighbouring little-endian words, in the widest moves that the address allows.
template <uint n_words>
inline void load_words(device const uchar* address, uint low_bits, thread uint* words) {
  if (n_words % 4 == 0 && low_bits % 16 == 0) {
#pragma unroll
    for (uint i = 0; i + 4 <= n_words; i += 4) {
      const uint4 vector = reinterpret_cast<device const uint4*>(address)[i / 4];
      words[i] = vector.x, words[i + 1] = vector.y, words[i + 2] = vector.z, words[i + 3] = vector.w;
    }
  } else if (n_words % 2 == 0 && low_bits % 8 == 0) {
#pragma unroll
    for (uint i = 0; i + 2 <= n_words; i += 2) {
      const uint2 vector = reinterpret_cast<device const uint2*>(address)[i / 2];
      words[i] = vector.x, words[i + 1] = vector.y;
    }
  } else {
#pragma unroll
    for (uint i = 0; i < n_words; ++i) words[i] = load_uint32(address + 4 * i, low_bits);
  }
}

inline float float16_value(uint bits) { return float(as_type<half>(ushort(bits))); }
inline float bfloat16_value(uint bits) { return as_type<float>(bits << 16); }

// An element as it is stored, and what it is worth.
inline uint load_element_bits(device const uchar* address, uint low_bits, uint dtype) {
  return dtype == FLOAT32 ? load_uint32(address, low_bits) : load_uint16(address, low_bits);
}

inline float element_value(uint bits, uint dtype) {
  if (dtype == FLOAT32) return as_type<float>(bits);
  return dtype == FLOAT16 ? float16_value(bits) : bfloat16_value(bits);
}

inline float load_element(device const uchar* address, uint low_bits, uint dtype) {
  return element_value(load_element_bits(address, low_bits, dtype), dtype);
}

// Elements first .. first + 7 of an unquantised row, zeros behind its end.
inline void load_elements(MatrixRow row, uint dtype, uint cols, uint first, thread float* elements) {
  const uint nbytes = dtype_nbytes(dtype);
  device const uchar* address = row.weight + ulong(first) * nbytes;
  if (first + 8 > cols) {
#pragma unroll
    for (uint i = 0; i < 8; ++i) {
      elements[i] = first + i < cols ? load_element(address + i * nbytes, row.weight_low_bits, dtype) : 0.0f;
    }
  } else if (dtype == FLOAT32) {
    uint words[8];
    load_words<8>(address, row.weight_low_bits, words);
#pragma unroll
    for (uint i = 0; i < 8; ++i) elements[i] = as_type<float>(words[i]);
  } else {
    uint words[4];
    load_words<4>(address, row.weight_low_bits, words);
#pragma unroll
    for (uint i = 0; i < 4; ++i) {
      const uint low = words[i] & 0xffff, high = words[i] >> 16;
      elements[2 * i] = dtype == FLOAT16 ? float16_value(low) : bfloat16_value(low);
      elements[2 * i + 1] = dtype == FLOAT16 ? float16_value(high) : bfloat16_value(high);
    }
  }
}

// Code i of a stream of words, centred: code / 2^bits - 1/2; i is known when compiling. The code stays where it is and
// becomes part of the mantissa of 2^exponent, which takes no conversion from an integer and no shift of its own.
template <uint bits>
inline float centred_code(thread const uint* words, uint i) {
  const uint word = i * bits / 32, first_bit = i * bits % 32, mask = (1u << bits) - 1;
  uint field = words[word], shift = first_bit;
  if (first_bit + bits > 32) {
    field = field >> first_bit | words[word + 1] << (32 - first_bit);
    shift = 0;
  } else if (first_bit + bits > 23) {
    field >>= 9;
    shift = first_bit - 9;
  }
  const uint exponent = 23 - bits - shift;
  const float base = as_type<float>((exponent + 127) << 23);
  return as_type<float>((field & mask << shift) | (exponent + 127) << 23) - (base + 0.5f);
}

// For centred codes, of a scale and a bias as they are stored.
inline Affine centred_affine(uint scale_bits, uint bias_bits, uint quant_format) {
  const uint dtype = format_dtype(quant_format);
  const float scale = element_value(scale_bits, dtype), n_codes = float(1u << format_bits(quant_format));
  Affine affine;
  affine.scale = scale * n_codes;
  affine.bias = fma(scale, n_codes / 2, element_value(bias_bits, dtype));
  return affine;
}

// Of the group of a column.
inline Affine load_affine(MatrixRow row, uint quant_format, uint col) {
  const uint dtype = format_dtype(quant_format);
  const uint offset = col / format_group_size(quant_format) * dtype_nbytes(dtype);
  return centred_affine(load_element_bits(row.scales + offset, row.scale_low_bits, dtype),
                        load_element_bits(row.biases + offset, row.scale_low_bits, dtype), quant_format);
}

// One element of a row of any format.
inline float matrix_element(MatrixRow row, uint quant_format, uint col) {
  const uint bits = format_bits(quant_format), dtype = format_dtype(quant_format);
  if (bits == 0) return load_element(row.weight + ulong(col) * dtype_nbytes(dtype), row.weight_low_bits, dtype);
  const ulong first_bit = ulong(col) * bits;
  const uint shift = uint(first_bit % 8);
  uint field = row.weight[first_bit / 8];
  if (shift + bits > 8) field |= uint(row.weight[first_bit / 8 + 1]) << 8;
  const uint offset = col / format_group_size(quant_format) * dtype_nbytes(dtype);
  const float scale = load_element(row.scales + offset, row.scale_low_bits, dtype);
  const float bias = load_element(row.biases + offset, row.scale_low_bits, dtype);
  return fma(scale, float(field >> shift & ((1u << bits) - 1)), bias);
}
