"""Sizes, limits of control groups and what this process uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from moeflux import memory


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        (4096, 4096),
        ("512", 512),
        ("512B", 512),
        ("8GB", 8 * 10**9),
        ("8G", 8 * 10**9),
        ("1.5 gb", 1_500_000_000),
        ("6.5GiB", int(6.5 * 2**30)),
        ("3MiB", 3 * 2**20),
        ("10kB", 10_000),
    ],
)
def test_sizes_as_people_write_them(text: str | int, nbytes: int) -> None:
    assert memory.parse_size(text) == nbytes


def test_percent_is_of_the_memory_of_the_machine() -> None:
    assert memory.parse_size("50%") == int(0.5 * memory.total_memory())


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "8XB", "1e9", "50%%", "0"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"8GB|at least one byte"):
        memory.parse_size(text)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(512, "512 B"), (41_500_000, "41.5 MB"), (3_030_000_000, "3.03 GB"), (10_000, "10 kB")],
)
def test_sizes_for_people(nbytes: int, text: str) -> None:
    assert memory.format_size(nbytes) == text


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_limits_of_a_version_2_group_and_its_parents_count(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/outer/inner\n")
    write(tmp_path / "sys/fs/cgroup/outer/inner/memory.max", "max\n")
    write(tmp_path / "sys/fs/cgroup/outer/memory.max", "3000000\n")
    assert [limit.nbytes for limit in memory.control_group_limits(tmp_path)] == [3_000_000]


def test_limits_of_a_version_1_group_count(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "5:cpu:/job\n3:memory:/job\n")
    write(tmp_path / "sys/fs/cgroup/memory/job/memory.limit_in_bytes", "2000000\n")
    write(tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes", str(2**63 - 4096))
    assert [limit.nbytes for limit in memory.control_group_limits(tmp_path)] == [2_000_000]


def test_headroom_is_the_limit_less_what_the_group_holds(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/job\n")
    write(tmp_path / "sys/fs/cgroup/job/memory.max", "1000\n")
    write(tmp_path / "sys/fs/cgroup/job/memory.current", "700\n")
    write(tmp_path / "sys/fs/cgroup/job/memory.stat", "anon 400\ninactive_file 250\n")
    (limit,) = memory.control_group_limits(tmp_path)
    assert limit.headroom == 1000 - 700 + 250


def test_no_control_groups_means_no_limit(tmp_path: Path) -> None:
    assert memory.control_group_limits(tmp_path) == []


def test_peak_memory_covers_what_was_touched() -> None:
    block = bytearray(64 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    assert memory.peak_memory() > len(block)
