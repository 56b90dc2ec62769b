"""A folder of prefixes: it outlives processes, is shared by them, and stays below its size."""

from __future__ import annotations

import fcntl
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sequences import PROMPT, assert_same_bits
from stored_states import StoredState, edited

import moeflux
from moeflux.engine.prefixes.store import PrefixStore
from tiny_checkpoint import CheckpointFolders

SCRIPT = Path(__file__).with_name("prefix_process.py")
LONG = PROMPT + PROMPT[::-1]


@pytest.fixture
def checkpoint(tiny_folder: CheckpointFolders) -> Path:
    return tiny_folder("qwen3_5_moe", "mlx")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "prefixes"


@contextmanager
def storing(checkpoint: Path, folder: Path, **options: str) -> Iterator[moeflux.Model]:
    chosen = moeflux.Settings(context_size=512, prefix_folder=str(folder), **options)
    with moeflux.load(checkpoint, device="cpu", settings=chosen) as model:
        yield model


def store_of(model: moeflux.Model) -> PrefixStore:
    assert model.prefixes is not None
    return model.prefixes


def keep(model: moeflux.Model, *positions: int) -> list[bool]:
    session, done, kept = model.session(), 0, []
    for position in positions:
        session.prefill(LONG[done:position])
        kept.append(store_of(model).keep(session))
        done = position
    return kept


def resumed(model: moeflux.Model) -> int:
    """Resume in a new session and compare with a straight run; how many positions were stored."""
    session, straight = model.session(), model.session()
    position = store_of(model).resume(session, LONG)
    assert session.position == position
    assert_same_bits(session.prefill(LONG[position:]), straight.prefill(LONG))
    return position


def prefix_files(folder: Path) -> list[Path]:
    """The shortest prefix first."""
    files = folder.glob("*.prefix")
    return sorted(files, key=lambda path: StoredState.read(path).header["position"])


@pytest.mark.parametrize("options", [{}, {"prefix_memory": "100MB"}], ids=["folder", "both"])
def test_prefixes_outlive_the_model(
    checkpoint: Path, folder: Path, options: dict[str, str]
) -> None:
    with storing(checkpoint, folder, **options) as model:
        assert keep(model, 64, 192) == [True, True]
    with storing(checkpoint, folder, **options) as model:
        assert resumed(model) == 192
        assert resumed(model) == 192
        assert store_of(model).counts.n_failed == 0


def test_what_only_memory_had_is_written_with_what_follows(checkpoint: Path, folder: Path) -> None:
    with storing(checkpoint, folder, prefix_memory="100MB") as model:
        with (folder / "lock").open() as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            assert keep(model, 64) == [True]
            assert prefix_files(folder) == []
        assert keep(model, 192) == [True]
        assert len(prefix_files(folder)) == 2
    with storing(checkpoint, folder) as model:
        assert resumed(model) == 192


def test_while_another_process_writes_nothing_is_kept(checkpoint: Path, folder: Path) -> None:
    with storing(checkpoint, folder) as model:
        with (folder / "lock").open() as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            assert keep(model, 64) == [False]
        assert keep(model, 64) == [True]


def test_prefixes_of_another_model_are_left_alone(
    tiny_folder: CheckpointFolders, checkpoint: Path, folder: Path
) -> None:
    with storing(checkpoint, folder) as model:
        keep(model, 64)
    with storing(tiny_folder("qwen3_moe", "mlx"), folder) as model:
        assert resumed(model) == 0
        keep(model, 64)
        assert resumed(model) == 64
    with storing(checkpoint, folder) as model:
        assert resumed(model) == 64


def test_only_the_owner_may_look_into_the_folder(checkpoint: Path, folder: Path) -> None:
    with storing(checkpoint, folder) as model:
        keep(model, 64)
    assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


def test_a_folder_that_cannot_be_made_is_an_error_at_loading(
    checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(moeflux.SnapshotError, match="cannot be a folder of prefixes: Not a dir"),
        storing(checkpoint, tmp_path / "file" / "prefixes"),
    ):
        pass


@pytest.mark.parametrize("place", [3, 30, -1])
def test_a_damaged_file_is_removed_and_a_shorter_prefix_taken(
    checkpoint: Path, folder: Path, caplog: pytest.LogCaptureFixture, place: int
) -> None:
    with storing(checkpoint, folder) as model:
        keep(model, 64, 192)
        damaged = prefix_files(folder)[1]
        data = bytearray(damaged.read_bytes())
        data[place] ^= 1
        damaged.write_bytes(data)
        with caplog.at_level(logging.WARNING):
            assert resumed(model) == 64
        assert str(damaged) in caplog.text
        assert not damaged.exists()
        assert store_of(model).counts.n_failed == 1
        assert keep(model, 192) == [True]
        assert resumed(model) == 192


@pytest.mark.parametrize("n_kept", [0.0, 0.5, 0.999])
def test_a_shortened_file_is_removed(checkpoint: Path, folder: Path, n_kept: float) -> None:
    with storing(checkpoint, folder) as model:
        keep(model, 64)
        (path,) = prefix_files(folder)
        path.write_bytes(path.read_bytes()[: int(n_kept * path.stat().st_size)])
        assert resumed(model) == 0
        assert not path.exists()


def test_a_file_under_the_name_of_another_is_damage(checkpoint: Path, folder: Path) -> None:
    with storing(checkpoint, folder) as model:
        keep(model, 64, 128)
        first, second = prefix_files(folder)
        first.write_bytes(second.read_bytes())
        assert resumed(model) == 0
        assert not first.exists()


def test_a_file_under_the_name_of_a_longer_prefix_is_damage(checkpoint: Path, folder: Path) -> None:
    with storing(checkpoint, folder) as model:
        keep(model, 128)
        (longer,) = prefix_files(folder)
        longer.unlink()
        keep(model, 64)
        (shorter,) = prefix_files(folder)
        shorter.rename(longer)
        assert resumed(model) == 0
        assert store_of(model).counts.n_failed == 1


def test_a_file_of_another_version_is_removed(checkpoint: Path, folder: Path) -> None:
    with storing(checkpoint, folder) as model:
        keep(model, 64)
        (path,) = prefix_files(folder)
        edited(path, lambda stored: setattr(stored, "version", 2))
        assert resumed(model) == 0
        assert not path.exists()


def test_a_file_of_somebody_else_can_be_read(
    checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with storing(checkpoint, folder) as model:
        keep(model, 64)
        monkeypatch.setattr("os.utime", refuse)
        assert resumed(model) == 64


@pytest.mark.parametrize("field", ["kind", "model", "device", "program", "parent"])
def test_a_file_that_is_not_what_its_name_says_is_damage(
    checkpoint: Path, folder: Path, field: str
) -> None:
    with storing(checkpoint, folder) as model:
        keep(model, 64)
        (path,) = prefix_files(folder)
        edited(path, lambda stored: stored.header.update({field: "another"}))
        assert resumed(model) == 0
        assert not path.exists()


def test_a_file_with_other_tokens_is_damage(checkpoint: Path, folder: Path) -> None:
    with storing(checkpoint, folder) as model:
        keep(model, 64)
        (path,) = prefix_files(folder)
        edited(
            path, lambda stored: stored.replace_section("tokens", stored.sections["tokens"][::-1])
        )
        assert resumed(model) == 0


def test_a_prefix_without_what_comes_before_it_is_none(checkpoint: Path, folder: Path) -> None:
    with storing(checkpoint, folder) as model:
        keep(model, 64, 192)
        prefix_files(folder)[0].unlink()
        assert resumed(model) == 0
        assert keep(model, 192) == [True]
        assert resumed(model) == 192


def test_a_file_that_vanishes_while_it_is_looked_for_is_a_miss(
    checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with storing(checkpoint, folder) as model:
        keep(model, 64, 192)
        last = prefix_files(folder)[1]
        touch = store_of(model)._tiers._folder.touch  # type: ignore[union-attr]

        def touch_and_lose(file: object) -> None:
            touch(file)  # type: ignore[arg-type]
            last.unlink(missing_ok=True)

        monkeypatch.setattr(store_of(model)._tiers._folder, "touch", touch_and_lose)
        assert resumed(model) == 64


def test_a_full_disk_costs_the_prefix_only(
    checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with storing(checkpoint, folder) as model:
        with monkeypatch.context() as patch:
            patch.setattr("os.pwrite", full)
            assert keep(model, 64) == [False]
        assert store_of(model).counts.n_failed == 1
        assert {path.name for path in folder.iterdir()} == {"lock"}
        assert keep(model, 64) == [True]


def test_the_folder_stays_below_its_size_and_keeps_what_is_used(
    checkpoint: Path, folder: Path
) -> None:
    with storing(checkpoint, folder) as model:
        keep(model, 64)
        nbytes = prefix_files(folder)[0].stat().st_size
    (other := folder / "of somebody else").write_bytes(bytes(10))
    with storing(checkpoint, folder, prefix_disk=str(3 * nbytes)) as model:
        for first in range(3, 8):
            session = model.session()
            session.prefill([first, *LONG[:63]])
            assert store_of(model).keep(session)
            assert sum(path.stat().st_size for path in prefix_files(folder)) <= 3 * nbytes
            assert resumed(model) == 64
        assert len(prefix_files(folder)) == 3
    assert other.exists()


def test_what_a_kill_left_is_removed(checkpoint: Path, folder: Path) -> None:
    with storing(checkpoint, folder) as model:
        (left := folder / f"{'0' * 32}-{'1' * 32}.prefix.partial").write_bytes(bytes(10**6))
        keep(model, 64)
        assert not left.exists()
        assert resumed(model) == 64


def run(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_share_a_folder_that_is_too_small(checkpoint: Path, folder: Path) -> None:
    nbytes = 600_000
    processes = [run(checkpoint, folder, nbytes, seed, 40) for seed in (1, 2)]
    for process in processes:
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        n_resumed, _ = map(int, out.split())
        assert n_resumed > 0
    assert 0 < sum(path.stat().st_size for path in folder.iterdir()) <= nbytes


def test_kills_at_random_calls_leave_a_folder_that_works(checkpoint: Path, folder: Path) -> None:
    nbytes = 600_000
    out, errors = (process := run(checkpoint, folder, nbytes, 5, 6, 14)).communicate(timeout=300)
    assert process.returncode == 0, errors
    lines = [line.split() for line in out.splitlines()]
    assert len(lines) == 14
    assert [how for how, _ in lines].count("killed") > 5
    assert max(int(size) for _, size in lines) <= nbytes
    out, errors = (process := run(checkpoint, folder, nbytes, 99, 10)).communicate(timeout=300)
    assert process.returncode == 0, errors
    n_resumed, n_failed = map(int, out.split())
    assert n_resumed > 0
    assert n_failed == 0
    assert not list(folder.glob("*.partial"))
