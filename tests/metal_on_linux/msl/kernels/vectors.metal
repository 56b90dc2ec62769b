// Scalars, vectors and functions.
#include <metal_stdlib>
using namespace metal;

kernel void half_operations(device const half* a [[buffer(0)]], device const half* b [[buffer(1)]],
                            device half* out [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  const half sum = a[i] + b[i], product = a[i] * b[i];
  out[4 * i] = sum;
  out[4 * i + 1] = product;
  out[4 * i + 2] = a[i] / b[i];
  out[4 * i + 3] = a[i] * 3 - b[i];
}
kernel void bfloat_operations(device const bfloat* a [[buffer(0)]], device const bfloat* b [[buffer(1)]],
                              device bfloat* out [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  out[2 * i] = a[i] + b[i];
  out[2 * i + 1] = bfloat(float(a[i]) * float(b[i]));
}
kernel void half_conversions(device const float* x [[buffer(0)]], device half* h [[buffer(1)]],
                             device bfloat* b [[buffer(2)]], device float* back [[buffer(3)]],
                             uint i [[thread_position_in_grid]]) {
  h[i] = half(x[i]);
  b[i] = bfloat(x[i]);
  back[i] = float(h[i]);
}
kernel void mixed_promotion(device const half* a [[buffer(0)]], device float* out [[buffer(1)]],
                            uint i [[thread_position_in_grid]]) {
  out[2 * i] = a[i] * 0.1f;
  out[2 * i + 1] = 0.1 + a[i];
}
kernel void swizzles(device const float4* x [[buffer(0)]], device float4* out [[buffer(1)]]) {
  const float4 v = x[0];
  float4 w = v.wzyx;
  out[0] = w;
  w.xz = v.xy + v.zw * 2.0f;
  out[1] = w;
  w.yzw += float3(v.xx, 1.0f);
  out[2] = w;
  w.xy = w.yx;
  out[3] = w;
  out[4] = float4(v.x, v.yz, 7);
  out[5] = float4(float2(1.0f), v.zw);
  w = v;
  w.w = v.xyzw[2];
  w[0] = -w[0];
  out[6] = w;
  out[7] = float4(uint4(3u, 2u, 1u, 0u) << 1u) / 4.0f;
}
kernel void layouts(device uint* out [[buffer(0)]]) {
  out[0] = sizeof(float3);
  out[1] = sizeof(packed_float3);
  out[2] = sizeof(half3);
  out[3] = alignof(float4);
  out[4] = sizeof(uchar4);
  out[5] = sizeof(ulong2);
  out[6] = sizeof(bfloat);
}
kernel void functions(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
                      uint i [[thread_position_in_grid]]) {
  const float v = x[i];
  device float* row = out + i * 12;
  row[0] = exp(v);
  row[1] = precise::rsqrt(fabs(v) + 1.0f);
  row[2] = fast::tanh(v);
  row[3] = clamp(v, -1.0f, 1.0f);
  row[4] = fma(v, v, 1.0f);
  row[5] = max(v, NAN);
  row[6] = sign(v) + saturate(v);
  row[7] = dot(float3(v), float3(1.0f, 2.0f, 3.0f));
  row[8] = select(1.0f, 2.0f, v > 0.0f);
  row[9] = mix(1.0f, 3.0f, v);
  row[10] = log2(float4(fabs(v) + 1.0f)).z;
  row[11] = isnan(v) || isinf(v) ? 1.0f : fract(v);
}
kernel void integers(device const uint* x [[buffer(0)]], device uint* out [[buffer(1)]],
                     uint i [[thread_position_in_grid]]) {
  const uint v = x[i];
  device uint* row = out + i * 8;
  row[0] = popcount(v);
  row[1] = clz(v);
  row[2] = ctz(v);
  row[3] = extract_bits(v, 4, 9);
  row[4] = mulhi(v, 0x10001u);
  row[5] = rotate(v, 5u);
  row[6] = as_type<uint>(as_type<float>(v));
  row[7] = uint(as_type<uchar4>(v).z);
}
kernel void literals(device float* out [[buffer(0)]]) {
  out[0] = 0.1 * 3;
  out[1] = sizeof(0.1) == 4 ? 1.0f : 0.0f;
}
