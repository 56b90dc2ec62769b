"""Race mode: every fault has a sound kernel beside it."""

from pathlib import Path

import numpy as np
import pytest
from shader_library import KERNELS, Launch, ShaderFault, ShaderLibrary, place

pytestmark = pytest.mark.metal_bench

SHADER = KERNELS / "races.metal"

RACES = [
    "missing_barrier",
    "reused",
    "device_memory",
    "wrong_flags",
    "two_threadgroups",
    "read_elsewhere",
    "simdgroup_order",
    "matrix_order",
    "plain_and_atomic",
    "copied",
]
BOUNDS = ["overrun", "threadgroup_overrun"]
TWO_THREADGROUPS = ("two_threadgroups", "read_elsewhere")


@pytest.fixture(scope="module")
def library(cache: Path) -> ShaderLibrary:
    return ShaderLibrary.compile(SHADER, cache, "--mode", "race")


def run(library: ShaderLibrary, kernel: str, order: int) -> None:
    across = kernel.removesuffix("_sound") in TWO_THREADGROUPS
    launch = Launch((2,) if across else (1,), (64,), threadgroup_nbytes=(256,), order=order)
    x, y = (np.ones(128, np.float32) for _ in range(2))
    library.run(kernel, x, y, launch=launch)


@pytest.mark.parametrize("order", range(4))
@pytest.mark.parametrize("kernel", RACES)
def test_a_race_is_found_with_its_line(library: ShaderLibrary, kernel: str, order: int) -> None:
    with pytest.raises(ShaderFault) as caught:
        run(library, kernel, order)
    assert caught.value.status == "RACE"
    assert caught.value.races > 0
    assert place(SHADER, kernel) in str(caught.value)


def test_a_read_of_threadgroup_memory_that_nobody_wrote_is_found(library: ShaderLibrary) -> None:
    with pytest.raises(ShaderFault, match=place(SHADER, "never_written")) as caught:
        run(library, "never_written", 0)
    assert caught.value.status == "UNINITIALISED_READ"


@pytest.mark.parametrize("kernel", BOUNDS)
def test_an_access_behind_the_bound_bytes_is_found(library: ShaderLibrary, kernel: str) -> None:
    with pytest.raises(ShaderFault, match=place(SHADER, kernel)) as caught:
        run(library, kernel, 0)
    assert caught.value.status == "OUT_OF_BOUNDS"


@pytest.mark.parametrize("order", range(4))
@pytest.mark.parametrize(
    "kernel", [name for name in (*RACES, *BOUNDS, "never_written") if name != "device_memory"]
)
def test_its_sound_twin_runs(library: ShaderLibrary, kernel: str, order: int) -> None:
    run(library, f"{kernel}_sound", order)


def test_bounds_are_those_of_the_bound_range(library: ShaderLibrary) -> None:
    whole = np.ones(256, np.float32)
    with pytest.raises(ShaderFault, match="outside of all bound memory"):
        library.run("overrun_sound", whole[:100], launch=Launch(threads=(64,)))


def test_a_message_names_both_sides(library: ShaderLibrary) -> None:
    with pytest.raises(ShaderFault) as caught:
        run(library, "wrong_flags", 0)
    assert "race in device memory: read by thread" in str(caught.value)
    assert place(SHADER, "wrong_flags") in str(caught.value)
    written = f"unordered with a write at {SHADER.parent}/{place(SHADER, 'written')}"
    assert written in str(caught.value)
