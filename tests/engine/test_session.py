"""Sessions: the same bits whichever way the tokens come in, and clear errors."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import numpy as np
import pytest

import moeflux
from tiny_checkpoint import CheckpointFolders

PROMPT = [3 + (7 * index) % 250 for index in range(150)]


def assert_same_bits(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


def test_prefill_and_decode_give_the_same_bits(model: moeflux.Model) -> None:
    whole = model.session().prefill(PROMPT[:20])
    one_by_one = model.session()
    for token in PROMPT[:19]:
        one_by_one.decode(token)
    assert_same_bits(one_by_one.decode(PROMPT[19]), whole)


@pytest.mark.parametrize("breaks", [[64], [128], [64, 128]])
def test_chunks_that_break_at_blocks_give_the_same_bits(
    model: moeflux.Model, breaks: list[int]
) -> None:
    whole = model.session().prefill(PROMPT)
    chunked = model.session()
    for first, last in zip([0, *breaks], [*breaks, len(PROMPT)], strict=True):
        logits = chunked.prefill(PROMPT[first:last])
    assert_same_bits(logits, whole)


def test_prefill_chunk_size_does_not_change_the_bits(tiny_folder: CheckpointFolders) -> None:
    folder = tiny_folder("qwen3_5_moe", "mlx")
    results = []
    for chunk in (64, 128, 256):
        settings = moeflux.Settings(prefill_chunk=chunk)
        with moeflux.load(folder, device="cpu", settings=settings) as model:
            results.append(model.session().prefill(PROMPT))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


def test_all_logits_end_with_the_logits_of_prefill(model: moeflux.Model) -> None:
    rows = model.session().prefill_all_logits(PROMPT[:70])
    assert rows.shape == (70, model.config.vocab_size)
    assert_same_bits(rows[-1], model.session().prefill(PROMPT[:70]))
    assert_same_bits(rows[9], model.session().prefill(PROMPT[:10]))


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_number_of_threads_does_not_change_the_bits(
    tiny_folder: CheckpointFolders, n_threads: int
) -> None:
    folder = tiny_folder("qwen3_5_moe", "mlx")
    logits = []
    for threads in (3, n_threads):
        settings = moeflux.Settings(n_threads=threads)
        with moeflux.load(folder, device="cpu", settings=settings) as model:
            session = model.session()
            session.prefill(PROMPT[:70])
            logits.append(session.decode(5))
    assert_same_bits(logits[1], logits[0])


def test_fewer_slots_do_not_change_the_bits(
    tiny_folder: CheckpointFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moeflux.engine.budget.resident_memory", lambda: 0)
    folder = tiny_folder("qwen3_5_moe", "mlx")
    with moeflux.load(folder, device="cpu") as roomy:
        assert roomy.runtime.experts.n_slots == 4 * 8
        session = roomy.session()
        expected = [session.prefill(PROMPT), session.decode(9), session.decode(11)]
    with moeflux.load(folder, device="cpu") as probe:
        memory = probe.memory_needs.floor_nbytes + 4 * probe.memory_needs.slot_nbytes
    with moeflux.load(folder, device="cpu", memory=memory) as tight:
        assert tight.runtime.experts.n_slots < 8
        session = tight.session()
        for wanted, got in zip(
            expected, [session.prefill(PROMPT), session.decode(9), session.decode(11)], strict=True
        ):
            assert_same_bits(got, wanted)


def test_sessions_do_not_disturb_each_other(model: moeflux.Model) -> None:
    alone = model.session()
    expected = [alone.prefill(PROMPT[:10]), alone.decode(4), alone.decode(5)]
    first, second = model.session(), model.session()
    got = [first.prefill(PROMPT[:10])]
    second.prefill(PROMPT[20:40])
    got.append(first.decode(4))
    second.decode(17)
    got.append(first.decode(5))
    for actual, wanted in zip(got, expected, strict=True):
        assert_same_bits(actual, wanted)


def test_reset_forgets_everything(model: moeflux.Model) -> None:
    session = model.session()
    expected = session.prefill(PROMPT[:33])
    session.decode(7)
    session.reset()
    assert session.position == 0
    assert_same_bits(session.prefill(PROMPT[:33]), expected)


def test_session_keeps_its_model_alive(tiny_folder: CheckpointFolders) -> None:
    session = moeflux.load(tiny_folder("qwen3_5_moe", "mlx"), device="cpu").session()
    gc.collect()
    session.prefill([1, 2, 3])
    assert session.position == 3


def test_position_counts_tokens(hybrid: moeflux.Model) -> None:
    session = hybrid.session()
    session.prefill([1, 2, 3])
    session.decode(4, position=3)
    assert session.position == 4


def test_decode_at_another_position_is_refused(hybrid: moeflux.Model) -> None:
    session = hybrid.session()
    session.prefill([1, 2, 3])
    with pytest.raises(ValueError, match="at position 3, the token was meant for 2"):
        session.decode(4, position=2)
    assert session.position == 3


def test_empty_prompt_is_refused(hybrid: moeflux.Model) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        hybrid.session().prefill([])


@pytest.mark.parametrize("token", [-1, 10**6])
def test_token_outside_the_vocabulary_is_refused(hybrid: moeflux.Model, token: int) -> None:
    session = hybrid.session()
    with pytest.raises(ValueError, match=f"token 1 is {token}, the vocabulary has ids 0 .. "):
        session.prefill([1, token])
    assert session.position == 0
    assert not session.dirty


def test_prompt_longer_than_the_context_is_refused(hybrid: moeflux.Model) -> None:
    session = hybrid.session(context_size=16)
    session.prefill(PROMPT[:10])
    with pytest.raises(
        moeflux.ContextOverflowError, match="7 tokens at position 10 exceed the context of 16"
    ):
        session.prefill(PROMPT[:7])
    session.prefill(PROMPT[:6])
    with pytest.raises(moeflux.ContextOverflowError):
        session.decode(1)


def test_context_beyond_the_models_own_is_refused(hybrid: moeflux.Model) -> None:
    limit = hybrid.config.max_position_embeddings
    with pytest.raises(ValueError, match=f"context_size must be 1 .. {limit}"):
        hybrid.session(context_size=limit + 1)
    with pytest.raises(ValueError, match="got 0"):
        hybrid.session(context_size=0)
    with pytest.raises(ValueError, match="got 0"):
        hybrid.session().fork(context_size=0)


@pytest.mark.parametrize("change", ["shortened", "rewritten"])
def test_file_changed_while_running_is_an_error_that_names_it(
    tiny_folder: CheckpointFolders, tmp_path: Path, change: str
) -> None:
    folder = tmp_path / change
    shutil.copytree(tiny_folder("qwen3_5_moe", "hf"), folder)
    with moeflux.load(folder, device="cpu") as model:
        session = model.session()
        session.prefill([1, 2, 3])
        with (folder / "model.safetensors").open("r+b") as file:
            if change == "shortened":
                file.truncate(4096)
            else:
                file.seek(-1, 2)
                file.write(b"x")
        with pytest.raises(
            moeflux.ReadError, match=r"model.safetensors (changed|was rewritten) while in use"
        ):
            session.decode(4)
        with pytest.raises(moeflux.SessionStateError, match="reset"):
            session.decode(4)


def test_file_replaced_or_unlinked_while_running_changes_nothing(
    tiny_folder: CheckpointFolders, tmp_path: Path
) -> None:
    folder = tmp_path / "unlinked"
    shutil.copytree(tiny_folder("qwen3_5_moe", "hf"), folder)
    with moeflux.load(folder, device="cpu") as model:
        expected = model.session().prefill(PROMPT)
    with moeflux.load(folder, device="cpu") as model:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors").write_bytes(b"another file")
        assert_same_bits(model.session().prefill(PROMPT), expected)


def test_memory_below_the_floor_is_refused_with_the_numbers(tiny_folder: CheckpointFolders) -> None:
    with pytest.raises(
        moeflux.MemoryCapError, match=r"memory of 1 kB is below the .* dense weights"
    ):
        moeflux.load(tiny_folder("qwen3_5_moe", "mlx"), device="cpu", memory="1kB")
