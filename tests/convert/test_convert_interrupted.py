"""A conversion that is killed goes on where it stopped, and is never taken for a whole one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conversion_sources import Sources
from stored_files import digests

from moeflux.checkpoint import Checkpoint
from moeflux.checkpoint.convert import convert
from moeflux.checkpoint.convert_files import Progress
from moeflux.errors import CheckpointError, ConversionError

SCRIPT = Path(__file__).with_name("killed_conversion.py")


class Interruption(Exception):
    """Raised by a progress callback, as Ctrl-C would."""


def interrupt_at(share: float) -> object:
    def progress(state: Progress) -> None:
        if state.done_nbytes >= share * state.total_nbytes:
            raise Interruption

    return progress


def interrupted(source: Path, folder: Path, share: float) -> None:
    with pytest.raises(Interruption):
        convert(source, folder, progress=interrupt_at(share))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [2, 3])
def test_kills_at_random_system_calls_change_no_byte_of_the_result(
    seed: int, source_folder: Sources, tmp_path: Path
) -> None:
    source = source_folder("hf-next")
    convert(source, tmp_path / "whole", bits=4)
    command = [sys.executable, str(SCRIPT), str(source), str(tmp_path / "killed"), str(seed)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert len(lines) > 6
    # The manifest makes a folder whole: a kill behind it leaves only the journal to remove.
    opened = [line == "killed True" for line in lines[:-1]]
    assert opened == sorted(opened)
    assert lines[-1] == "finished True"
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


def test_a_half_converted_folder_does_not_load_and_says_why(
    source_folder: Sources, tmp_path: Path
) -> None:
    for share in (0.0, 0.3, 0.99):
        folder = tmp_path / str(share)
        interrupted(source_folder("mlx"), folder, share)
        with pytest.raises(CheckpointError, match="not finished: run 'moeflux convert' again"):
            Checkpoint.open(folder)


def test_finished_files_are_not_written_again(source_folder: Sources, tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    interrupted(source_folder("mlx"), folder, 0.5)
    first = folder / "experts" / "layer_00.bin"
    written = first.stat()
    result = convert(source_folder("mlx"), folder)
    assert result.kept_nbytes >= written.st_size
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)


def test_a_finished_file_that_went_missing_is_written_again(
    source_folder: Sources, tmp_path: Path
) -> None:
    convert(source_folder("mlx"), tmp_path / "whole")
    folder = tmp_path / "packed"
    interrupted(source_folder("mlx"), folder, 0.5)
    (folder / "experts" / "layer_00.bin").unlink()
    convert(source_folder("mlx"), folder)
    assert digests(folder) == digests(tmp_path / "whole")


def test_an_interrupted_file_leaves_no_partial_one(source_folder: Sources, tmp_path: Path) -> None:
    interrupted(source_folder("mlx"), tmp_path / "packed", 0.5)
    assert [*(tmp_path / "packed").rglob("*.partial")] == []


def test_converting_again_into_a_whole_folder_changes_nothing(
    source_folder: Sources, tmp_path: Path
) -> None:
    first = convert(source_folder("mlx"), tmp_path / "packed")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "packed").rglob("*")}
    again = convert(source_folder("mlx"), tmp_path / "packed")
    assert (first.kept_nbytes, again.kept_nbytes) == (0, first.nbytes)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "packed").rglob("*")} == before


def test_going_on_with_other_bits_is_refused(source_folder: Sources, tmp_path: Path) -> None:
    interrupted(source_folder("hf"), tmp_path / "packed", 0.5)
    with pytest.raises(
        ConversionError, match="weights as they were, wanted 4 bits in groups of 64"
    ):
        convert(source_folder("hf"), tmp_path / "packed", bits=4)


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_going_on_with_another_source_is_refused(
    share: float, source_folder: Sources, tmp_path: Path
) -> None:
    if share < 1:
        interrupted(source_folder("mlx"), tmp_path / "packed", share)
    else:
        convert(source_folder("mlx"), tmp_path / "packed")
    with pytest.raises(ConversionError, match="of another source"):
        convert(source_folder("hf"), tmp_path / "packed")


def test_a_source_that_changed_meanwhile_is_refused(source_folder: Sources, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in source_folder("mlx").iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    interrupted(source, tmp_path / "packed", 0.5)
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    with pytest.raises(ConversionError, match="before it changed"):
        convert(source, tmp_path / "packed")
