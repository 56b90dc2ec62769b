// Joins the functions of the instruction set that the including file is compiled for, and its matrix products, into a
// table.
#pragma once
#include "cpu/attention_simd.h"
#include "cpu/functions.h"
#include "cpu/gated_delta_net_simd.h"
#include "cpu/matmul_simd.h"
#include "cpu/norm_simd.h"

namespace moeflux::cpu {
namespace {

constexpr Functions simd_functions(RowDots (*row_dots)(std::uint32_t format),
                                   RowDots (*int8_row_dots)(std::uint32_t format)) {
  return Functions{
      .row_dots = row_dots,
      .int8_row_dots = int8_row_dots,
      .sum = sum,
      .widen = widen,
      .rms_norm = rms_norm,
      .gated_rms_norm = gated_rms_norm,
      .l2_norm = l2_norm,
      .silu_multiply = silu_multiply,
      .multiply_sigmoid = multiply_sigmoid,
      .combine = combine,
      .attend = attend,
      .merge_attention = merge_attention,
      .finish_attention = finish_attention,
      .delta_rule = delta_rule,
      .convolve = convolve,
  };
}

}  // namespace
}  // namespace moeflux::cpu
