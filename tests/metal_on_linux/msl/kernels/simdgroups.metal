// Operations over the lanes of a simdgroup.
#include <metal_stdlib>
using namespace metal;

kernel void reductions(device const int* x [[buffer(0)]], device int* out [[buffer(1)]],
                       uint i [[thread_position_in_grid]]) {
  device int* row = out + i * 10;
  row[0] = simd_sum(x[i]);
  row[1] = simd_max(x[i]);
  row[2] = simd_min(x[i]);
  row[3] = simd_and(x[i]);
  row[4] = simd_or(x[i]);
  row[5] = simd_xor(x[i]);
  row[6] = simd_any(x[i] == 7) ? 1 : 0;
  row[7] = simd_all(x[i] > -100) ? 1 : 0;
  row[8] = simd_prefix_exclusive_sum(x[i]);
  row[9] = simd_prefix_inclusive_sum(x[i]);
}
kernel void exchanges(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
                      uint i [[thread_position_in_grid]], uint lane [[thread_index_in_simdgroup]]) {
  device float* row = out + i * 7;
  row[0] = simd_shuffle(x[i], ushort(31 - lane));
  row[1] = simd_shuffle_xor(x[i], 5);
  if (lane < 29) {
    row[2] = simd_shuffle_down(x[i], 3);
  } else {
    row[2] = simd_shuffle_up(x[i], 1);
  }
  row[3] = simd_shuffle_rotate_up(x[i], 2);
  row[4] = simd_broadcast(x[i], 17);
  row[5] = simd_broadcast_first(x[i]);
  row[6] = simd_shuffle(half4(half(x[i])), ushort(lane ^ 1)).w;
}
kernel void multiply(device const half* a [[buffer(0)]], device const half* b [[buffer(1)]],
                     device float* c [[buffer(2)]], constant uint3& size [[buffer(3)]],
                     uint2 tile [[threadgroup_position_in_grid]]) {
  simdgroup_float8x8 sums = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  for (uint k = 0; k < size.z; k += 8) {
    simdgroup_half8x8 left, right;
    simdgroup_load(left, a + tile.y * 8 * size.z + k, size.z);
    simdgroup_load(right, b, size.z, ulong2(k, tile.x * 8), true);
    simdgroup_multiply_accumulate(sums, left, right, sums);
  }
  simdgroup_store(sums, c, size.y, ulong2(tile.x * 8, tile.y * 8));
}
kernel void diagonal(device float* out [[buffer(0)]]) {
  simdgroup_float8x8 scaled(2.0f), values, product;
  simdgroup_load(values, out);
  simdgroup_multiply(product, scaled, values);
  simdgroup_store(product, out + 64, 8, ulong2(0, 0), true);
}
kernel void counts(device const uchar* x [[buffer(0)]], device atomic_uint* total [[buffer(1)]],
                   uint i [[thread_position_in_grid]], uint index [[thread_index_in_threadgroup]]) {
  threadgroup atomic_uint local[16];
  if (index < 16) atomic_store_explicit(&local[index], 0u, memory_order_relaxed);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  atomic_fetch_add_explicit(&local[x[i]], 1u, memory_order_relaxed);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (index < 16) {
    const uint n = atomic_load_explicit(&local[index], memory_order_relaxed);
    atomic_fetch_add_explicit(&total[index], n, memory_order_relaxed);
    atomic_fetch_max_explicit(&total[16 + index], n, memory_order_relaxed);
  }
}
