"""A prompt chunk by chunk: others take turns between, and the bits are those of the whole."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sequences import PROMPT, assert_same_bits, assert_same_state

import moeflux
from tiny_checkpoint import CheckpointFolders

KINDS = ("qwen3_5_moe", "qwen3_next", "qwen3_moe")


@pytest.fixture(params=KINDS)
def model(
    request: pytest.FixtureRequest, tiny_folder: CheckpointFolders
) -> Iterator[moeflux.Model]:
    """Chunks of one block."""
    settings = moeflux.Settings(prefill_chunk=64)
    folder: Path = tiny_folder(request.param, "mlx")
    with moeflux.load(folder, device="cpu", settings=settings) as loaded:
        yield loaded


@pytest.mark.parametrize("first", [0, 10, 64])
def test_chunks_have_the_bits_of_the_whole_prompt(model: moeflux.Model, first: int) -> None:
    session, straight = model.session(), model.session()
    if first:
        session.prefill(PROMPT[:first])
        straight.prefill(PROMPT[:first])
    expected = straight.prefill(PROMPT)
    assert list(session.prefill_chunks(PROMPT))[-1] == len(PROMPT)
    assert_same_bits(session.logits, expected)
    assert_same_state(session, straight)


def test_chunks_break_at_blocks(model: moeflux.Model) -> None:
    session = model.session()
    session.prefill(PROMPT[:10])
    assert list(session.prefill_chunks(PROMPT[10:])) == [54, 118, 140]


def test_other_sessions_take_turns_between_chunks(model: moeflux.Model) -> None:
    first, second, straight = model.session(), model.session(), model.session()
    chunks = first.prefill_chunks(PROMPT)
    for n_done in chunks:
        assert first.position == n_done
        second.decode(n_done)
    straight.prefill(PROMPT)
    assert_same_state(first, straight)
    straight.reset()
    straight.prefill([64, 128, 150])
    assert_same_state(second, straight)


def test_other_threads_take_turns_between_chunks(model: moeflux.Model) -> None:
    session, other = model.session(), model.session()
    chunks = session.prefill_chunks(PROMPT)
    next(chunks)
    thread = threading.Thread(target=other.prefill, args=(PROMPT,))
    thread.start()
    thread.join(timeout=60)
    assert other.position == len(PROMPT)


def test_two_threads_on_one_session_leave_it_with_what_it_says_it_has(
    model: moeflux.Model,
) -> None:
    session, straight = model.session(), model.session()
    start = threading.Barrier(3)

    def decode(first: int) -> None:
        start.wait(timeout=60)
        for token in range(first, first + 20):
            session.decode(token)

    def prefill() -> None:
        start.wait(timeout=60)
        session.prefill(PROMPT[:70])

    threads = [threading.Thread(target=decode, args=(first,)) for first in (10, 50)]
    threads.append(threading.Thread(target=prefill))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(session.tokens) == sorted([*range(10, 30), *range(50, 70), *PROMPT[:70]])
    straight.prefill(session.tokens)
    assert_same_state(session, straight)


def test_logits_are_not_known_inside_a_prompt(model: moeflux.Model) -> None:
    session = model.session()
    session.decode(1)
    next(session.prefill_chunks(PROMPT))
    with pytest.raises(moeflux.SessionStateError, match="logits at position 64 are not known"):
        _ = session.logits


def test_a_prompt_left_half_way_can_be_gone_on_with_or_forgotten(model: moeflux.Model) -> None:
    session, straight = model.session(), model.session()
    chunks = session.prefill_chunks(PROMPT)
    next(chunks)
    del chunks
    assert (session.position, session.dirty) == (64, False)
    session.prefill(PROMPT[64:])
    straight.prefill(PROMPT)
    assert_same_state(session, straight)


def test_a_session_moved_inside_a_prompt_refuses_the_rest(model: moeflux.Model) -> None:
    session, straight = model.session(), model.session()
    chunks = session.prefill_chunks(PROMPT)
    next(chunks)
    session.decode(5)
    with pytest.raises(
        moeflux.SessionStateError, match="goes on at position 64, the session is at 65"
    ):
        next(chunks)
    assert not session.dirty
    straight.prefill([*PROMPT[:64], 5])
    assert_same_state(session, straight)


def test_arguments_are_checked_before_the_first_chunk(model: moeflux.Model) -> None:
    session = model.session(16)
    with pytest.raises(moeflux.ContextOverflowError):
        session.prefill_chunks(PROMPT)
    with pytest.raises(ValueError, match="at least one token"):
        session.prefill_chunks([])
    assert session.position == 0
