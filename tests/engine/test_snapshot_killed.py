"""A save that is killed leaves the file before it, or the whole new one, and nothing in the way."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest
from sequences import PROMPT

import moeflux
from moeflux.engine.snapshots.saved_file import SavedFile
from tiny_checkpoint import CheckpointFolders

SCRIPT = Path(__file__).with_name("killed_saves.py")
N_CHILDREN = 16


@pytest.mark.parametrize("seed", [1, 2])
def test_a_kill_at_a_random_call_leaves_a_whole_file(
    tiny_folder: CheckpointFolders, tmp_path: Path, seed: int
) -> None:
    arguments = [str(tiny_folder("qwen3_5_moe", "mlx")), str(tmp_path / "chat"), str(seed)]
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments, str(N_CHILDREN)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert len(lines) == N_CHILDREN
    assert {how for how, _ in lines} == {"killed", "finished"}
    before = 0
    for n_tokens, (how, restored) in enumerate(lines, start=1):
        allowed = {before, n_tokens} if how == "killed" else {n_tokens}
        assert int(restored) in allowed
        before = int(restored)
    assert {path.name for path in tmp_path.iterdir()} <= {"chat", "chat.partial"}


def test_what_a_kill_left_is_overwritten(hybrid: moeflux.Model, tmp_path: Path) -> None:
    (tmp_path / "chat.partial").write_bytes(bytes(10**6))
    session = hybrid.session()
    session.prefill(PROMPT[:5])
    session.save(tmp_path / "chat")
    assert [path.name for path in tmp_path.iterdir()] == ["chat"]
    assert hybrid.restore(tmp_path / "chat").position == 5


def test_a_file_that_another_process_is_saving_is_left_alone(
    hybrid: moeflux.Model, tmp_path: Path
) -> None:
    with (tmp_path / "chat.partial").open("wb") as other:
        other.write(b"of another process")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(moeflux.SnapshotError, match="chat: another process is writing it"):
            hybrid.session().save(tmp_path / "chat")
    assert (tmp_path / "chat.partial").read_bytes() == b"of another process"


def test_a_file_that_gets_its_name_while_another_opens_it_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, locked = tmp_path / "chat", []
    (tmp_path / "chat.partial").write_bytes(b"of another process")
    lock = fcntl.flock

    def finish_the_other_first(descriptor: int, operation: int) -> None:
        if not locked:
            (tmp_path / "chat.partial").rename(path)
        locked.append(descriptor)
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", finish_the_other_first)
    with SavedFile(path) as file:
        assert path.read_bytes() == b"of another process"
        file.write(0, b"ours")
        file.commit()
    assert path.read_bytes() == b"ours"
    assert len(locked) == 2


def test_a_save_that_ends_early_leaves_no_partial_file(tmp_path: Path) -> None:
    with SavedFile(tmp_path / "chat") as file:
        file.write(0, b"some")
    assert list(tmp_path.iterdir()) == []
