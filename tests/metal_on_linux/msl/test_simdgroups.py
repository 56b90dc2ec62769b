"""Operations over the lanes of a simdgroup against NumPy, in all four thread orders."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from shader_library import KERNELS, Launch, ShaderLibrary

pytestmark = pytest.mark.metal_bench

SHADER = KERNELS / "simdgroups.metal"


@pytest.fixture(scope="module", params=["clang++-19", "g++", "race"])
def library(request: pytest.FixtureRequest, cache: Path) -> ShaderLibrary:
    option = "--mode" if request.param == "race" else "--compiler"
    return ShaderLibrary.compile(SHADER, cache, option, request.param)


@pytest.fixture(params=range(4))
def order(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def per_lane(reduced: ArrayLike) -> NDArray[np.generic]:
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
        *(
            per_lane(f.reduce(rows, axis=1))
            for f in (np.bitwise_and, np.bitwise_or, np.bitwise_xor)
        ),
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
    a, b = (
        random.normal(size=(m, k)).astype(np.float16),
        random.normal(size=(n, k)).astype(np.float16),
    )
    c = np.zeros((m, n), np.float32)
    size = np.array([m, n, k, 0], np.uint32)
    library.run("multiply", a, b, c, size, launch=Launch((n // 8, m // 8), order=order))
    np.testing.assert_allclose(
        c, a.astype(np.float32) @ b.T.astype(np.float32), rtol=1e-5, atol=1e-5
    )


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
