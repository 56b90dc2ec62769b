"""Folders that cannot be written, and what a failed conversion says and leaves."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from conversion_sources import Sources
from stored_files import digests

from moeflux.checkpoint.convert import convert
from moeflux.errors import ConversionError, ReadError


def test_a_source_is_not_converted_into_itself(source_folder: Sources, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(source_folder("mlx"))
    with pytest.raises(ConversionError, match="the same folder"):
        convert(source_folder("mlx"), link)


def test_a_folder_with_foreign_files_is_refused_and_kept(
    source_folder: Sources, tmp_path: Path
) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "todo.txt").write_text("buy milk")
    with pytest.raises(ConversionError, match=r"found 'todo.txt'"):
        convert(source_folder("mlx"), folder)
    assert {path.name for path in folder.iterdir()} == {"todo.txt"}


def test_foreign_files_beside_a_conversion_are_kept(source_folder: Sources, tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    (folder / ".cache").mkdir(parents=True)
    (folder / ".cache" / "index").write_text("mine")
    convert(source_folder("mlx"), folder)
    (folder / "notes.txt").write_text("mine too")
    convert(source_folder("mlx"), folder)
    assert (folder / ".cache" / "index").read_text() == "mine"
    assert (folder / "notes.txt").read_text() == "mine too"


def test_a_destination_that_is_a_file_is_refused(source_folder: Sources, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConversionError, match=r"file: cannot be written: File exists"):
        convert(source_folder("mlx"), tmp_path / "file")
    with pytest.raises(ConversionError, match=r"below: cannot be written: Not a directory"):
        convert(source_folder("mlx"), tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def read_only_folder() -> Iterator[Path]:
    """A folder that this process may read and not write, whoever runs it."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    folder.rmdir()


def test_an_unwritable_destination_is_refused(
    source_folder: Sources, read_only_folder: Path
) -> None:
    user = os.geteuid()
    os.seteuid(os.getuid())
    source = Path(shutil.copytree(source_folder("mlx"), tempfile.mkdtemp(), dirs_exist_ok=True))
    source.chmod(0o755)
    os.seteuid(user)
    for folder in (read_only_folder, read_only_folder / "packed"):
        with pytest.raises(ConversionError, match="cannot be written: Permission denied"):
            convert(source, folder)
    os.seteuid(os.getuid())
    shutil.rmtree(source)


def test_space_is_checked_before_anything_is_written(
    source_folder: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ConversionError, match=r"needs \d{6,} bytes, .* has 1000 bytes free"):
        convert(source_folder("mlx"), tmp_path / "packed")
    assert [*tmp_path.iterdir()] == []


def test_space_is_wanted_for_what_is_missing_only(
    source_folder: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_folder("mlx")
    total = convert(source, tmp_path / "whole").nbytes
    written = 0
    pwrite = os.pwrite

    def until_half(descriptor: int, data: memoryview, offset: int) -> int:
        nonlocal written
        written += len(data)
        if written > total // 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", until_half)
    with pytest.raises(ConversionError, match="no space left"):
        convert(source, tmp_path / "packed")
    monkeypatch.undo()
    kept = sum(path.stat().st_size for path in (tmp_path / "packed/experts").iterdir())
    assert kept > 0
    free = total - kept
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free - 1))
    with pytest.raises(ConversionError, match=f"needs {free} bytes, .* has {free - 1} bytes"):
        convert(source, tmp_path / "packed")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert convert(source, tmp_path / "packed").kept_nbytes == kept
    assert digests(tmp_path / "packed") == digests(tmp_path / "whole")


@pytest.mark.parametrize("after", [0, 1, 5, 20, 40, 60])
def test_a_full_disk_says_what_is_kept_and_the_next_run_goes_on(
    after: int, source_folder: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_writes = 0
    pwrite = os.pwrite

    def full(descriptor: int, data: memoryview, offset: int) -> int:
        nonlocal n_writes
        n_writes += 1
        if n_writes > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, data[: max(1, len(data) // 2)], offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(
        ConversionError, match=r"no space left.*; \d+ of \d+ bytes are finished.*to go on"
    ):
        convert(source_folder("mlx"), tmp_path / "packed")
    assert n_writes == after + 1
    monkeypatch.undo()
    convert(source_folder("mlx"), tmp_path / "packed")
    convert(source_folder("mlx"), tmp_path / "whole")
    assert digests(tmp_path / "packed") == digests(tmp_path / "whole")


def test_a_file_size_limit_is_a_full_disk(source_folder: Sources, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(ConversionError, match="no space left"):
            convert(source_folder("mlx"), tmp_path / "packed")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_two_conversions_into_one_folder_do_not_meet(
    source_folder: Sources, tmp_path: Path
) -> None:
    folder = tmp_path / "packed"
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(ConversionError, match="another process is converting"):
        convert(source_folder("mlx"), folder)
    os.close(descriptor)
    convert(source_folder("mlx"), folder)


def test_a_source_that_ends_early_is_a_read_error_with_the_place(
    source_folder: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preadv = os.preadv

    def short(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        return 0 if offset > 300_000 else preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", short)
    with pytest.raises(ReadError, match="the file ends") as raised:
        convert(source_folder("mlx"), tmp_path / "packed")
    assert raised.value.path.endswith("model.safetensors")
    assert raised.value.offset > 300_000 - 100_000
    assert raised.value.wanted > raised.value.got
