"""How kernels are run: barriers, limits, bindings, constants, orders."""

from pathlib import Path

import numpy as np
import pytest
from shader_library import KERNELS, Launch, ShaderFault, ShaderLibrary, place

pytestmark = pytest.mark.metal_bench

SHADER = KERNELS / "runner.metal"


@pytest.fixture(scope="module", params=["clang++-19", "g++"])
def library(request: pytest.FixtureRequest, cache: Path) -> ShaderLibrary:
    return ShaderLibrary.compile(SHADER, cache, "--compiler", request.param)


@pytest.fixture
def x() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.arange(64, dtype=np.float32)


X = np.ndarray[tuple[int], np.dtype[np.float32]]
ONE = Launch(threads=(64,))


def fault(library: ShaderLibrary, kernel: str, *arrays: X, launch: Launch = ONE) -> ShaderFault:
    with pytest.raises(ShaderFault) as caught:
        library.run(kernel, *arrays, launch=launch)
    return caught.value


def test_a_barrier_that_some_threads_miss_is_an_error(library: ShaderLibrary, x: X) -> None:
    error = fault(library, "early_return", x)
    assert error.status == "DIVERGENT_BARRIER"
    assert "early_return: the barrier at" in str(error)
    assert f"{place(SHADER, 'early_return')} is not reached by all threads" in str(error)


def test_two_barriers_at_once_are_an_error(library: ShaderLibrary, x: X) -> None:
    error = fault(library, "two_barriers", x)
    assert error.status == "DIVERGENT_BARRIER"
    assert place(SHADER, "first_barrier") in str(error)
    assert place(SHADER, "second_barrier") in str(error)


def test_a_return_behind_the_barrier_is_sound(library: ShaderLibrary, x: X) -> None:
    report = library.run("early_return_sound", x, launch=ONE)
    assert (x[:40] == 2).all()
    assert (x[40:] == np.arange(40, 64)).all()
    assert report.barriers == 1


def test_a_library_runs_on_after_an_error(library: ShaderLibrary, x: X) -> None:
    fault(library, "early_return", x)
    library.run("early_return_sound", x, launch=ONE)


@pytest.mark.parametrize(("n", "divergent"), [(32, 0), (64, 0), (20, 1), (50, 1)])
def test_simd_operations_with_lanes_missing_are_counted(
    library: ShaderLibrary, x: X, n: int, divergent: int
) -> None:
    sums = [np.arange(begin, min(begin + 32, n)).sum() for begin in (0, 32)]
    report = library.run("divergent", x, np.array([n], np.uint32), launch=ONE)
    assert report.divergent_operations == divergent
    assert report.divergence.decode().endswith(place(SHADER, "divergent") if divergent else "")
    np.testing.assert_array_equal(x, [sums[i // 32] if i < n else i for i in range(64)])


def test_a_simdgroup_of_fewer_threads_is_not_divergent(library: ShaderLibrary, x: X) -> None:
    report = library.run("partial_simdgroup", x, launch=Launch(threads=(40,)))
    assert report.divergent_operations == 0
    assert x[39] == np.arange(32, 40).sum()


def test_threadgroup_memory_begins_as_nan(library: ShaderLibrary, x: X) -> None:
    library.run("unwritten", x, launch=Launch(threads=(64,), threadgroup_nbytes=(256,)))
    assert np.isnan(x).all()


def test_threadgroup_variables_and_buffers_are_apart(library: ShaderLibrary, x: X) -> None:
    library.run("shared", x, launch=Launch(threads=(64,), threadgroup_nbytes=(256, 256)))
    np.testing.assert_array_equal(x, 3 * np.arange(63, -1, -1) + 100)


def test_32_kib_of_threadgroup_memory_are_the_limit(library: ShaderLibrary, x: X) -> None:
    library.run("large", x, launch=ONE)
    error = fault(library, "large", x, launch=Launch(threads=(64,), threadgroup_nbytes=(16,)))
    assert error.status == "LIMIT"
    assert "threadgroup memory of 32784 bytes" in str(error)


@pytest.mark.parametrize(("kernel", "threads"), [("scaled", 1025), ("limited", 65), ("scaled", 0)])
def test_threads_out_of_limits_are_an_error(
    library: ShaderLibrary, x: X, kernel: str, threads: int
) -> None:
    pipeline = library.pipeline(kernel, scale=np.uint32(1), negated=np.bool_(0))
    with pytest.raises(ShaderFault, match=f"{threads} threads in a threadgroup") as caught:
        pipeline.run(x, launch=Launch(threads=(threads,)))
    assert caught.value.status == "LIMIT"


def test_a_missing_buffer_is_named(library: ShaderLibrary, x: X) -> None:
    with pytest.raises(ShaderFault, match="buffer 1 'n' is not bound"):
        library.run("divergent", x, launch=ONE)


def test_a_missing_threadgroup_length_is_named(library: ShaderLibrary, x: X) -> None:
    with pytest.raises(ShaderFault, match="threadgroup memory 1 'second' has no length"):
        library.run("shared", x, launch=Launch(threads=(64,), threadgroup_nbytes=(256,)))


def test_pipelines_keep_their_own_constants(library: ShaderLibrary) -> None:
    two = library.pipeline("scaled", scale=np.uint32(2), negated=np.bool_(0))
    minus_five = library.pipeline("scaled", scale=np.uint32(5), negated=np.bool_(1))
    for pipeline, factor in ((two, 2), (minus_five, -5), (two, 2)):
        x = np.ones(32, np.float32)
        pipeline.run(x, launch=Launch())
        assert (x == factor).all()


def test_a_constant_without_a_value_is_named(library: ShaderLibrary) -> None:
    with pytest.raises(ShaderFault, match="kernel 'scaled' needs function constant 'scale'"):
        library.pipeline("scaled", negated=np.bool_(0))


def test_a_kernel_needs_only_the_constants_that_it_uses(library: ShaderLibrary, x: X) -> None:
    library.pipeline("limited").run(x, launch=ONE)
    assert (x == 3).all()


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.uint16(1), "'scale' has 4 bytes, got 2"), (None, "'unheard_of' is unknown")],
)
def test_a_wrong_constant_is_named(
    library: ShaderLibrary, value: np.generic | None, message: str
) -> None:
    constants = {"unheard_of": np.uint32(1)} if value is None else {"scale": value}
    with pytest.raises(ShaderFault, match=message):
        library.pipeline("limited", **constants)


def test_an_unknown_kernel_is_named(library: ShaderLibrary) -> None:
    with pytest.raises(ShaderFault, match="no kernel 'absent'"):
        library.pipeline("absent")


@pytest.mark.parametrize("order", range(4))
@pytest.mark.parametrize("workers", [1, 2])
def test_every_thread_runs_once_with_its_own_position(
    library: ShaderLibrary, order: int, workers: int
) -> None:
    size, groups = (5, 4, 2), (3, 2, 2)
    grid = tuple(s * g for s, g in zip(size, groups, strict=True))
    out = np.full((*reversed(grid), 12), 0xFFFF, np.uint16)
    library.run("positions", out, launch=Launch(groups, size, order=order, workers=workers))
    z, y, x = np.indices(out.shape[:3])
    index = ((z % 2) * 4 + y % 4) * 5 + x % 5
    expected = [x % 5, y % 4, z % 2, x // 5, y // 4, 2, 4, index, index % 32, index // 32, 2, 32]
    for column, value in enumerate(expected):
        assert (out[..., column] == value).all(), column


def test_the_order_shows_a_missing_barrier(cache: Path) -> None:
    library = ShaderLibrary.compile(KERNELS / "races.metal", cache)
    results = []
    for order in range(4):
        x = np.arange(64, dtype=np.float32)
        library.run("missing_barrier", x, launch=Launch(threads=(64,), order=order))
        results.append(np.nan_to_num(x))
    assert any((result != results[0]).any() for result in results)


def test_threads_have_room_for_large_arrays(library: ShaderLibrary) -> None:
    x = np.arange(1024, dtype=np.float32)
    library.run("deep", x, launch=Launch(threads=(1024,)))
    np.testing.assert_allclose(x, 4096 * (np.arange(1024) + 2047.5), rtol=1e-5)
