"""Operations over the lanes of a simdgroup against NumPy, in all four thread orders."""

import numpy as np
import pytest
from conftest import Compile
from numpy.typing import NDArray
from shader_library import Launch, ShaderLibrary

pytestmark = pytest.mark.metal_bench

KERNELS = """
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
"""


@pytest.fixture(scope="module", params=["clang++-19", "g++", "race"])
def library(request: pytest.FixtureRequest, compile_text: Compile) -> ShaderLibrary:
    option = "--mode" if request.param == "race" else "--compiler"
    return compile_text(KERNELS, option, request.param)


@pytest.fixture(params=range(4))
def order(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def per_lane(reduced: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.repeat(reduced, 32)


def test_reductions_and_prefixes(library: ShaderLibrary, order: int) -> None:
    x = np.random.default_rng(1).integers(-50, 50, 128).astype(np.int32)
    out = np.zeros((128, 10), np.int32)
    report = library.run("reductions", x, out, launch=Launch((2,), (64,), order=order))
    rows = x.reshape(4, 32)
    expected = [
        per_lane(rows.sum(1)),
        per_lane(rows.max(1)),
        per_lane(rows.min(1)),
        *(per_lane(f.reduce(rows, axis=1)) for f in (np.bitwise_and, np.bitwise_or, np.bitwise_xor)),
        per_lane((rows == 7).any(1)),
        per_lane((rows > -100).all(1)),
        (rows.cumsum(1) - rows).ravel(),
        rows.cumsum(1).ravel(),
    ]
    np.testing.assert_array_equal(out, np.stack(expected, 1))
    assert report.simd_operations == 10 * 4
    assert report.divergent_operations == 0


def test_exchanges(library: ShaderLibrary, order: int) -> None:
    x = np.arange(64, dtype=np.float32) + 1
    out = np.zeros((64, 7), np.float32)
    report = library.run("exchanges", x, out, launch=Launch((1,), (64,), order=order))
    rows, lanes = x.reshape(2, 32), np.arange(32)
    np.testing.assert_array_equal(out[:, 0], rows[:, ::-1].ravel())
    np.testing.assert_array_equal(out[:, 1], rows[:, lanes ^ 5].ravel())
    shifted = out[:, 2].reshape(2, 32)
    np.testing.assert_array_equal(shifted[:, :26], rows[:, 3:29])
    np.testing.assert_array_equal(shifted[:, 30:], rows[:, 29:31])
    assert np.isnan(shifted[:, 26:30]).all()  # from lanes that do not take part
    np.testing.assert_array_equal(out[:, 3], np.roll(rows, 2, 1).ravel())
    np.testing.assert_array_equal(out[:, 4], per_lane(rows[:, 17]))
    np.testing.assert_array_equal(out[:, 5], per_lane(rows[:, 0]))
    np.testing.assert_array_equal(out[:, 6], rows[:, lanes ^ 1].ravel())
    assert report.divergent_operations == 2 * 2


def test_matrices_multiply(library: ShaderLibrary, order: int) -> None:
    random = np.random.default_rng(2)
    m, n, k = 16, 24, 40
    a, b = random.normal(size=(m, k)).astype(np.float16), random.normal(size=(n, k)).astype(np.float16)
    c = np.zeros((m, n), np.float32)
    size = np.uint32([m, n, k, 0])
    library.run("multiply", a, b, c, size, launch=Launch((n // 8, m // 8), order=order))
    np.testing.assert_allclose(c, a.astype(np.float32) @ b.T.astype(np.float32), rtol=1e-5, atol=1e-5)


def test_a_matrix_of_one_number_is_diagonal(library: ShaderLibrary) -> None:
    out = np.random.default_rng(3).normal(size=(2, 8, 8)).astype(np.float32)
    library.run("diagonal", out, launch=Launch())
    np.testing.assert_array_equal(out[1], 2 * out[0].T)


def test_atomics_count_over_threadgroups(library: ShaderLibrary, order: int) -> None:
    x = np.random.default_rng(4).integers(0, 16, 512).astype(np.uint8)
    total = np.zeros((2, 16), np.uint32)
    library.run("counts", x, total, launch=Launch((4,), (128,), order=order, workers=2))
    rows = [np.bincount(part, minlength=16) for part in x.reshape(4, 128)]
    np.testing.assert_array_equal(total, [np.sum(rows, 0), np.max(rows, 0)])
