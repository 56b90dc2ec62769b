"""Scalars, vectors and functions against NumPy, with both host compilers."""

import numpy as np
import pytest
from conftest import Compile
from numpy.typing import NDArray
from shader_library import Launch, ShaderLibrary

pytestmark = pytest.mark.metal_bench

KERNELS = """
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
"""


@pytest.fixture(scope="module", params=["clang++-19", "g++"])
def library(request: pytest.FixtureRequest, compile_text: Compile) -> ShaderLibrary:
    return compile_text(KERNELS, "--compiler", request.param)


@pytest.fixture
def halves() -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Normal, subnormal, infinite and zero."""
    random = np.random.default_rng(1)
    a = (random.normal(size=512) * 10.0 ** random.integers(-7, 5, 512)).astype(np.float16)
    b = (random.normal(size=512) * 10.0 ** random.integers(-7, 5, 512)).astype(np.float16)
    a[:4] = [0, np.inf, 6e-8, 65504]
    return a, b


def bits_of(array: NDArray[np.generic]) -> NDArray[np.uint16]:
    """Bits, with one NaN for all."""
    bits = array.view(np.uint16).copy()
    bits[np.isnan(array.astype(np.float32))] = 0x7E00
    return bits


def to_bfloat(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bfloat(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def test_half_rounds_once_per_operation(
    library: ShaderLibrary, halves: tuple[NDArray[np.float16], NDArray[np.float16]]
) -> None:
    a, b = halves
    out = np.zeros((512, 4), np.float16)
    library.run("half_operations", a, b, out, launch=Launch((16,)))
    with np.errstate(all="ignore"):
        expected = np.stack([a + b, a * b, a / b, a * np.float16(3) - b], 1)
    np.testing.assert_array_equal(bits_of(out), bits_of(expected))


def test_half_and_bfloat_convert_to_nearest_even(library: ShaderLibrary) -> None:
    random = np.random.default_rng(2)
    x = (random.normal(size=1024) * 10.0 ** random.integers(-8, 6, 1024)).astype(np.float32)
    x[:6] = [1 + 2**-11, 1 + 3 * 2**-11, 65519.9, 65520.0, 1 + 2**-8, 1 + 3 * 2**-8]
    h, b, back = np.zeros(1024, np.float16), np.zeros(1024, np.uint16), np.zeros(1024, np.float32)
    library.run("half_conversions", x, h, b, back, launch=Launch((32,)))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(h, x.astype(np.float16))
    np.testing.assert_array_equal(back, h.astype(np.float32))
    np.testing.assert_array_equal(b, to_bfloat(x))


def test_bfloat_rounds_once_per_operation(library: ShaderLibrary) -> None:
    random = np.random.default_rng(3)
    a, b = (to_bfloat(random.normal(size=256).astype(np.float32)) for _ in range(2))
    out = np.zeros((256, 2), np.uint16)
    library.run("bfloat_operations", a, b, out, launch=Launch((8,)))
    x, y = from_bfloat(a), from_bfloat(b)
    np.testing.assert_array_equal(out, np.stack([to_bfloat(x + y), to_bfloat(x * y)], 1))


def test_half_next_to_float_becomes_float(
    library: ShaderLibrary, halves: tuple[NDArray[np.float16], NDArray[np.float16]]
) -> None:
    a, _ = halves
    out = np.zeros((512, 2), np.float32)
    library.run("mixed_promotion", a, out, launch=Launch((16,)))
    wide = a.astype(np.float32)
    np.testing.assert_array_equal(out, np.stack([wide * np.float32(0.1), np.float32(0.1) + wide], 1))


def test_swizzles_are_read_and_written(library: ShaderLibrary) -> None:
    x = np.float32([2, 3, 5, 7])
    out = np.zeros((8, 4), np.float32)
    library.run("swizzles", x, out, launch=Launch(threads=(1,)))
    expected = [
        [7, 5, 3, 2],
        [2 + 10, 5, 3 + 14, 2],
        [12, 7, 19, 3],
        [7, 12, 19, 3],
        [2, 3, 5, 7],
        [1, 1, 5, 7],
        [-2, 3, 5, 5],
        [1.5, 1, 0.5, 0],
    ]
    np.testing.assert_array_equal(out, expected)


def test_sizes_are_those_of_metal(library: ShaderLibrary) -> None:
    out = np.zeros(7, np.uint32)
    library.run("layouts", out, launch=Launch(threads=(1,)))
    np.testing.assert_array_equal(out, [16, 12, 8, 16, 4, 16, 2])


def test_functions_match_numpy(library: ShaderLibrary) -> None:
    x = np.float32([-3.25, -0.5, 0.0, 0.25, 1.5, 80.0, 2.75, -1e-3])
    out = np.zeros((8, 12), np.float32)
    library.run("functions", x, out, launch=Launch(threads=(8,)))
    wide = x.astype(np.float64)
    expected = np.stack(
        [
            np.exp(wide), 1 / np.sqrt(np.abs(wide) + 1), np.tanh(wide), np.clip(wide, -1, 1),
            wide * wide + 1, wide, np.sign(wide) + np.clip(wide, 0, 1), 6 * wide,
            np.where(wide > 0, 2, 1), 1 + 2 * wide, np.log2(np.abs(wide) + 1), wide - np.floor(wide),
        ],
        1,
    )  # fmt: skip
    np.testing.assert_allclose(out, expected, rtol=2e-6, atol=1e-7)


def test_integer_functions_match_python(library: ShaderLibrary) -> None:
    x = np.uint32([0, 1, 0x80000000, 0x3F8A5C31, 12345678])
    out = np.zeros((5, 8), np.uint32)
    library.run("integers", x, out, launch=Launch(threads=(5,)))
    expected = [
        [
            v.bit_count(),
            32 - v.bit_length(),
            (v & -v).bit_length() - 1 if v else 32,
            (v >> 4) & 0x1FF,
            (v * 0x10001) >> 32,
            ((v << 5) | (v >> 27)) & 0xFFFFFFFF,
            v,
            (v >> 16) & 0xFF,
        ]
        for v in x.tolist()
    ]
    np.testing.assert_array_equal(out, expected)


def test_literals_are_single_precision(library: ShaderLibrary) -> None:
    out = np.zeros(2, np.float32)
    library.run("literals", out, launch=Launch(threads=(1,)))
    np.testing.assert_array_equal(out, [np.float32(0.1) * np.float32(3), 1])
