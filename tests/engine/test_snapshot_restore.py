"""A restored session is the one that was saved: tokens, bits, and what it can do next."""

from __future__ import annotations

import os
import stat
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from sequences import PROMPT, assert_same_bits, assert_same_state, capped
from stored_states import StoredState, edited

import moeflux
from moeflux._core import Device
from moeflux.engine.snapshots.identity import device_identity
from tiny_checkpoint import CheckpointFolders


@dataclass(frozen=True)
class StandInDevice:
    """A device that only describes itself."""

    name: str
    description: str


@pytest.mark.parametrize("n_tokens", [0, 1, 64, 150])
def test_a_restored_prompt_has_the_bits_of_a_straight_run(
    model: moeflux.Model, tmp_path: Path, n_tokens: int
) -> None:
    session, straight = model.session(), model.session()
    if n_tokens:
        session.prefill(PROMPT[:n_tokens])
        straight.prefill(PROMPT[:n_tokens])
    session.save(tmp_path / "chat")
    restored = model.restore(tmp_path / "chat")
    assert restored.tokens == tuple(PROMPT[:n_tokens])
    assert restored.context_size == session.context_size
    if n_tokens:
        assert_same_bits(restored.logits, straight.logits)
    assert_same_state(restored, straight)


def test_a_session_is_restored_into_another_load_of_the_model(
    tiny_folder: CheckpointFolders, tmp_path: Path
) -> None:
    folder = tiny_folder("qwen3_5_moe", "mlx")
    for n_threads in (1, 2):
        settings = moeflux.Settings(n_threads=n_threads, prefill_chunk=64 * n_threads)
        with moeflux.load(folder, device="cpu", settings=settings) as model:
            if n_threads == 1:
                session = model.session()
                session.prefill(PROMPT)
                session.decode(5)
                session.save(tmp_path / "chat")
                continue
            restored, straight = model.restore(tmp_path / "chat"), model.session()
            straight.prefill([*PROMPT, 5])
            assert_same_state(restored, straight)


def test_saving_changes_nothing(model: moeflux.Model, tmp_path: Path) -> None:
    session, straight = model.session(), model.session()
    session.prefill(PROMPT[:70])
    session.checkpoint()
    session.save(tmp_path / "chat")
    straight.prefill(PROMPT[:70])
    assert session.checkpoints == (70,)
    assert_same_state(session, straight)


def test_a_restored_session_can_be_truncated(model: moeflux.Model, tmp_path: Path) -> None:
    session, straight = model.session(), model.session()
    session.prefill(PROMPT[:70])
    for token in (4, 5, 6):
        session.decode(token)
    session.save(tmp_path / "chat")
    restored = model.restore(tmp_path / "chat")
    restored.truncate(71)
    straight.prefill([*PROMPT[:70], 4])
    assert_same_state(restored, straight)


def test_how_tokens_came_in_is_saved(hybrid: moeflux.Model, tmp_path: Path) -> None:
    session = hybrid.session()
    session.prefill(PROMPT[:64])
    session.prefill(PROMPT[:6])
    for token in (4, 5):
        session.decode(token)
    session.prefill(PROMPT[:3])
    session.save(tmp_path / "chat")
    header = StoredState.read(tmp_path / "chat").header
    assert header["pieces"] == [[70, True], [2, False], [3, True]]


def test_a_snapshot_holds_tokens_position_and_dtype(hybrid: moeflux.Model, tmp_path: Path) -> None:
    session = hybrid.session(200)
    session.prefill(PROMPT[:70])
    session.save(tmp_path / "chat")
    stored = StoredState.read(tmp_path / "chat")
    assert (stored.version, stored.header["position"], stored.header["dtype"]) == (1, 70, "float32")
    assert stored.header["context_size"] == 200
    assert np.frombuffer(stored.sections["tokens"], "<i4").tolist() == PROMPT[:70]
    logits = np.frombuffer(stored.sections["logits"], "<f4")
    assert_same_bits(logits, session.logits)


@pytest.mark.parametrize("context_size", [70, 400])
def test_a_session_may_be_restored_with_another_size(
    model: moeflux.Model, tmp_path: Path, context_size: int
) -> None:
    session, straight = model.session(256), model.session()
    session.prefill(PROMPT[:60])
    straight.prefill(PROMPT[:60])
    session.save(tmp_path / "chat")
    restored = model.restore(tmp_path / "chat", context_size)
    assert restored.context_size == context_size
    assert_same_state(restored, straight)


def test_a_size_below_the_tokens_is_refused(hybrid: moeflux.Model, tmp_path: Path) -> None:
    session = hybrid.session()
    session.prefill(PROMPT[:60])
    session.save(tmp_path / "chat")
    with pytest.raises(moeflux.ContextOverflowError, match=r"60 tokens .* context of 59"):
        hybrid.restore(tmp_path / "chat", 59)


def test_a_cap_counts_restored_sessions(
    tiny_folder: CheckpointFolders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with capped(tiny_folder("qwen3_5_moe", "mlx"), 256, monkeypatch) as model:
        session = model.session()
        session.prefill(PROMPT[:10])
        session.save(tmp_path / "chat")
        with pytest.raises(moeflux.SessionMemoryError):
            model.restore(tmp_path / "chat")
        del session
        assert model.restore(tmp_path / "chat").position == 10


def test_saving_again_replaces_the_file(hybrid: moeflux.Model, tmp_path: Path) -> None:
    session = hybrid.session()
    session.prefill(PROMPT)
    session.save(tmp_path / "chat")
    session.truncate(3)
    session.save(tmp_path / "chat")
    assert hybrid.restore(tmp_path / "chat").position == 3
    assert [path.name for path in tmp_path.iterdir()] == ["chat"]


def test_what_is_no_file_is_not_replaced(hybrid: moeflux.Model, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(moeflux.SnapshotError, match="pipe: is there already, and is no file"):
        hybrid.session().save(tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_only_the_owner_may_read_a_snapshot(hybrid: moeflux.Model, tmp_path: Path) -> None:
    hybrid.session().save(tmp_path / "chat")
    assert stat.S_IMODE((tmp_path / "chat").stat().st_mode) == 0o600


def test_a_folder_that_is_not_there_is_an_error_that_names_the_file(
    hybrid: moeflux.Model, tmp_path: Path
) -> None:
    session = hybrid.session()
    session.prefill([1, 2])
    path = tmp_path / "missing" / "chat"
    with pytest.raises(moeflux.SnapshotError, match=f"{path}: cannot be written: No such file"):
        session.save(path)
    with pytest.raises(moeflux.SnapshotError, match=f"{path}: cannot be read: No such file"):
        hybrid.restore(path)
    with pytest.raises(moeflux.SnapshotError, match=f"{tmp_path}: is not a file"):
        hybrid.restore(tmp_path)
    assert session.decode(3).size


def test_a_disk_that_is_full_keeps_the_file_before(
    hybrid: moeflux.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = hybrid.session()
    session.prefill(PROMPT[:5])
    session.save(tmp_path / "chat")
    session.decode(4)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full_disk)
        with pytest.raises(moeflux.SnapshotError, match="chat: cannot be written: No space left"):
            session.save(tmp_path / "chat")
    assert [path.name for path in tmp_path.iterdir()] == ["chat"]
    assert hybrid.restore(tmp_path / "chat").position == 5


def full_disk(*_: object) -> int:
    raise OSError(28, os.strerror(28))


@pytest.mark.parametrize("change", ["model", "device", "program"])
def test_a_snapshot_of_another_origin_is_refused_with_its_tokens(
    hybrid: moeflux.Model, tmp_path: Path, change: str
) -> None:
    session = hybrid.session()
    session.prefill(PROMPT[:9])
    session.save(tmp_path / "chat")
    edited(tmp_path / "chat", lambda stored: stored.header.update({change: "another"}))
    with pytest.raises(moeflux.SnapshotMismatchError, match=f"is of another {change}") as caught:
        hybrid.restore(tmp_path / "chat")
    assert caught.value.tokens == tuple(PROMPT[:9])
    straight = hybrid.session()
    straight.prefill(caught.value.tokens)
    assert_same_state(session, straight)


def test_a_snapshot_of_other_weights_is_refused(
    tiny_folder: CheckpointFolders, tmp_path: Path
) -> None:
    with moeflux.load(tiny_folder("qwen3_moe", "mlx"), device="cpu") as model:
        model.session().save(tmp_path / "chat")
    with (
        moeflux.load(tiny_folder("qwen3_moe", "hf"), device="cpu") as other,
        pytest.raises(moeflux.SnapshotMismatchError, match="is of another model"),
    ):
        other.restore(tmp_path / "chat")


def test_a_snapshot_of_another_instruction_set_is_refused(
    tiny_folder: CheckpointFolders, tmp_path: Path
) -> None:
    folder = tiny_folder("qwen3_5_moe", "mlx")
    with moeflux.load(folder, device="cpu") as model:
        model.session().save(tmp_path / "chat")
        best = model.device.description
    baseline = moeflux.Settings(instruction_set="baseline")
    with moeflux.load(folder, device="cpu", settings=baseline) as other:
        is_best = other.device.description == best
        wanted = pytest.raises(moeflux.SnapshotMismatchError, match=r"another device: .*baseline")
        with nullcontext() if is_best else wanted:
            other.restore(tmp_path / "chat")


def test_a_device_is_told_by_what_decides_its_bits() -> None:
    cpu = StandInDevice("cpu", "Some processor, avx2, 7 threads")
    gpu = StandInDevice("metal", "Apple M9, unified memory, 21845 MiB recommended working set")
    assert device_identity(cast("Device", cpu)) == "cpu, Some processor, avx2"
    assert device_identity(cast("Device", gpu)) == "metal, Apple M9, unified memory"


def test_a_closed_model_neither_saves_nor_restores(
    tiny_folder: CheckpointFolders, tmp_path: Path
) -> None:
    with moeflux.load(tiny_folder("qwen3_moe", "mlx"), device="cpu") as model:
        session = model.session()
        session.save(tmp_path / "chat")
    with pytest.raises(moeflux.SessionStateError, match="closed"):
        session.save(tmp_path / "chat")
    with pytest.raises(moeflux.SessionStateError, match="closed"):
        model.restore(tmp_path / "chat")
