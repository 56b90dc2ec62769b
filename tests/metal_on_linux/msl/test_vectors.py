"""Scalars, vectors and functions against NumPy, with both host compilers."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from shader_library import KERNELS, Launch, ShaderLibrary

pytestmark = pytest.mark.metal_bench

SHADER = KERNELS / "vectors.metal"


@pytest.fixture(scope="module", params=["clang++-19", "g++"])
def library(request: pytest.FixtureRequest, cache: Path) -> ShaderLibrary:
    return ShaderLibrary.compile(SHADER, cache, "--compiler", request.param)


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
    np.testing.assert_array_equal(
        out, np.stack([wide * np.float32(0.1), np.float32(0.1) + wide], 1)
    )


def test_swizzles_are_read_and_written(library: ShaderLibrary) -> None:
    x = np.array([2, 3, 5, 7], np.float32)
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
    x = np.array([-3.25, -0.5, 0.0, 0.25, 1.5, 80.0, 2.75, -1e-3], np.float32)
    out = np.zeros((8, 12), np.float32)
    library.run("functions", x, out, launch=Launch(threads=(8,)))
    wide = x.astype(np.float64)
    expected = np.stack(
        [
            np.exp(wide), 1 / np.sqrt(np.abs(wide) + 1), np.tanh(wide), np.clip(wide, -1, 1),
            wide * wide + 1, wide, np.sign(wide) + np.clip(wide, 0, 1), 6 * wide,
            np.where(wide > 0, 2, 1), 1 + 2 * wide,
            np.log2(np.abs(wide) + 1), wide - np.floor(wide),
        ],
        1,
    )  # fmt: skip
    np.testing.assert_allclose(out, expected, rtol=2e-6, atol=1e-7)


def test_integer_functions_match_python(library: ShaderLibrary) -> None:
    x = np.array([0, 1, 0x80000000, 0x3F8A5C31, 12345678], np.uint32)
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
