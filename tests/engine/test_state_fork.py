"""Forks go their own way, bit by bit as a session alone; memory caps count them."""

from __future__ import annotations

import pytest
from sequences import PROMPT, assert_same_bits, assert_same_state, capped

import moeflux
from tiny_checkpoint import CheckpointFolders


@pytest.mark.parametrize("n_tokens", [0, 1, 64, 70])
def test_a_fork_has_the_bits_of_a_straight_run(model: moeflux.Model, n_tokens: int) -> None:
    session, straight = model.session(), model.session()
    if n_tokens:
        session.prefill(PROMPT[:n_tokens])
        expected = straight.prefill(PROMPT[:n_tokens])
    fork = session.fork()
    if n_tokens:
        assert_same_bits(fork.logits, expected)
    assert_same_state(fork, straight)


def test_a_fork_and_its_origin_do_not_disturb_each_other(model: moeflux.Model) -> None:
    session, straight, other = model.session(), model.session(), model.session()
    session.prefill(PROMPT[:70])
    fork = session.fork()
    for token in (4, 5, 6):
        session.decode(token)
        fork.decode(token + 1)
    straight.prefill([*PROMPT[:70], 4, 5, 6])
    other.prefill([*PROMPT[:70], 5, 6, 7])
    assert_same_state(session, straight)
    assert_same_state(fork, other)


def test_a_fork_rewinds_to_the_checkpoints_of_its_origin(model: moeflux.Model) -> None:
    session, straight = model.session(), model.session()
    session.prefill(PROMPT[:30])
    session.checkpoint()
    session.prefill(PROMPT[30:])
    fork = session.fork()
    session.reset()
    session.prefill(PROMPT[60:])
    fork.rewind(30)
    straight.prefill(PROMPT[:30])
    assert_same_state(fork, straight)


@pytest.mark.parametrize("context_size", [70, 512])
def test_a_fork_may_have_another_size(model: moeflux.Model, context_size: int) -> None:
    session, straight = model.session(256), model.session()
    session.prefill(PROMPT[:60])
    fork = session.fork(context_size)
    assert (session.context_size, fork.context_size) == (256, context_size)
    straight.prefill(PROMPT[:60])
    assert_same_state(fork, straight)


def test_a_fork_smaller_than_its_tokens_is_refused(hybrid: moeflux.Model) -> None:
    session = hybrid.session()
    session.prefill(PROMPT[:60])
    with pytest.raises(moeflux.ContextOverflowError, match=r"60 tokens .* context of 59"):
        session.fork(59)


def test_a_fork_beyond_the_models_own_limit_is_refused(hybrid: moeflux.Model) -> None:
    limit = hybrid.config.max_position_embeddings
    with pytest.raises(ValueError, match=f"context_size must be 1 .. {limit}"):
        hybrid.session().fork(limit + 1)


def test_a_cap_counts_forks(
    tiny_folder: CheckpointFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_folder("qwen3_5_moe", "mlx")
    with capped(folder, 256, monkeypatch) as model:
        session = model.session()
        session.prefill(PROMPT[:10])
        with pytest.raises(moeflux.SessionMemoryError, match="a session of 256 positions"):
            session.fork()
        assert session.decode(4).size


def test_a_cap_counts_checkpoints_and_they_give_it_back(
    tiny_folder: CheckpointFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_folder("qwen3_5_moe", "mlx")
    with moeflux.load(folder, device="cpu") as model:
        one, two = (model.runtime.decoder.state_nbytes(context) for context in (1, 2))
        nbytes = one - (two - one) + 4 * model.config.vocab_size
    with capped(folder, 256, monkeypatch, spare=nbytes) as model:
        session = model.session()
        session.decode(1)
        session.checkpoint()
        session.decode(2)
        with pytest.raises(
            moeflux.SessionMemoryError, match="a checkpoint at position 2 needs"
        ) as caught:
            session.checkpoint()
        assert caught.value.wanted == nbytes
        assert session.checkpoints == (1,)
        session.drop_checkpoint(1)
        assert session.checkpoint() == 2
        session.reset()
        session.decode(3)
        assert session.checkpoint() == 1
