"""Checkpoints, rewind and truncate: a session that went back is one that never went further."""

from __future__ import annotations

from pathlib import Path

import pytest
from sequences import PROMPT, assert_same_bits, assert_same_state

import moeflux
from tiny_checkpoint import CheckpointFolders


class Failure(Exception):
    """Of a step, half way."""


def fail(*_: object) -> None:
    raise Failure


@pytest.fixture
def attention(tiny_folder: CheckpointFolders) -> Path:
    """A tiny model without recurrent states."""
    return tiny_folder("qwen3_moe", "mlx")


def test_tokens_are_those_that_were_fed(hybrid: moeflux.Model) -> None:
    session = hybrid.session()
    assert session.tokens == ()
    session.prefill([1, 2])
    session.decode(3)
    session.prefill_all_logits([4, 5])
    assert session.tokens == (1, 2, 3, 4, 5)


def test_logits_are_those_of_the_last_token(hybrid: moeflux.Model) -> None:
    session = hybrid.session()
    assert_same_bits(session.prefill(PROMPT[:5]), session.logits)
    assert_same_bits(session.decode(3), session.logits)
    assert_same_bits(session.prefill_all_logits(PROMPT[:5])[-1], session.logits)


def test_logits_cannot_be_changed_behind_the_sessions_back(hybrid: moeflux.Model) -> None:
    logits = hybrid.session().prefill(PROMPT[:5])
    with pytest.raises(ValueError, match="read-only"):
        logits[0] = 0


def test_an_empty_session_has_no_logits(hybrid: moeflux.Model) -> None:
    session = hybrid.session()
    with pytest.raises(moeflux.SessionStateError, match="logits at position 0 are not known"):
        _ = session.logits
    session.prefill([1])
    session.reset()
    with pytest.raises(moeflux.SessionStateError, match="logits at position 0 are not known"):
        _ = session.logits


@pytest.mark.parametrize("at", [1, 64, 70])
def test_rewind_gives_the_bits_of_a_straight_run(model: moeflux.Model, at: int) -> None:
    session, straight = model.session(), model.session()
    expected = straight.prefill(PROMPT[:at])
    session.prefill(PROMPT[:at])
    assert session.checkpoint() == at
    for token in PROMPT[:20]:
        session.decode(token)
    session.prefill(PROMPT)
    session.rewind(at)
    assert_same_bits(session.logits, expected)
    assert_same_state(session, straight)


def test_a_checkpoint_serves_more_than_once(model: moeflux.Model) -> None:
    session = model.session()
    session.prefill(PROMPT[:70])
    session.checkpoint()
    expected = session.decode(5)
    for other in (6, 7):
        session.rewind(70)
        session.decode(other)
    session.rewind(70)
    assert_same_bits(session.decode(5), expected)


def test_rewind_to_the_start_needs_no_checkpoint(model: moeflux.Model) -> None:
    session = model.session()
    session.prefill(PROMPT)
    session.rewind(0)
    assert session.position == 0
    assert_same_state(session, model.session())


def test_rewind_to_where_it_is_changes_nothing(model: moeflux.Model) -> None:
    session, straight = model.session(), model.session()
    expected = session.prefill(PROMPT[:10])
    straight.prefill(PROMPT[:10])
    session.rewind(10)
    assert_same_bits(session.logits, expected)
    assert_same_state(session, straight)


def test_rewind_without_a_checkpoint_names_those_there_are(model: moeflux.Model) -> None:
    session = model.session()
    for token in (1, 2, 3):
        session.decode(token)
        session.checkpoint()
    session.drop_checkpoint(2)
    with pytest.raises(
        moeflux.SessionStateError, match="no checkpoint at position 2; there are: 1, 3"
    ):
        session.rewind(2)
    assert (session.tokens, session.dirty) == ((1, 2, 3), False)


def test_checkpoints_behind_the_position_are_dropped(model: moeflux.Model) -> None:
    session = model.session()
    for token in (1, 2, 3):
        session.decode(token)
        session.checkpoint()
    session.rewind(2)
    assert session.checkpoints == (1, 2)
    session.reset()
    assert session.checkpoints == ()


def test_dropping_a_checkpoint_that_is_not_there_is_refused(hybrid: moeflux.Model) -> None:
    with pytest.raises(moeflux.SessionStateError, match="no checkpoint at position 4"):
        hybrid.session().drop_checkpoint(4)


@pytest.mark.parametrize("at", [0, 1, 63, 64, 65, 149, 155, 160])
def test_truncate_gives_the_bits_of_a_straight_run(model: moeflux.Model, at: int) -> None:
    session, straight = model.session(), model.session()
    tokens = PROMPT + PROMPT[:10]
    session.prefill(PROMPT)
    for token in PROMPT[:10]:
        session.decode(token)
    session.truncate(at)
    if at:
        straight.prefill(tokens[:at])
    assert session.tokens == tuple(tokens[:at])
    assert_same_state(session, straight)


def test_truncate_of_rows_feeds_nothing_again(attention: Path) -> None:
    with moeflux.load(attention, device="cpu") as model:
        session = model.session()
        session.prefill(PROMPT)
        assert session.truncate(41, prefill=False) == 0
        assert session.position == 41


def test_truncate_of_recurrent_states_starts_at_the_nearest_checkpoint(
    hybrid: moeflux.Model,
) -> None:
    session, straight = hybrid.session(), hybrid.session()
    for first in (0, 30, 60, 90):
        session.prefill(PROMPT[first : first + 30])
        session.checkpoint()
    assert session.truncate(75) == 15
    assert session.checkpoints == (30, 60)
    straight.prefill(PROMPT[:75])
    assert_same_state(session, straight)


def test_truncate_at_a_checkpoint_feeds_nothing_again(hybrid: moeflux.Model) -> None:
    session = hybrid.session()
    session.prefill(PROMPT[:30])
    session.checkpoint()
    session.prefill(PROMPT[30:])
    assert session.truncate(30, prefill=False) == 0


def test_truncate_that_may_not_prefill_names_the_nearest_checkpoint(hybrid: moeflux.Model) -> None:
    session, straight = hybrid.session(), hybrid.session()
    session.prefill(PROMPT[:30])
    session.checkpoint()
    session.prefill(PROMPT[30:])
    with pytest.raises(moeflux.TruncationError, match=r"nearest .* position 30") as caught:
        session.truncate(75, prefill=False)
    assert (caught.value.position, caught.value.nearest) == (75, 30)
    straight.prefill(PROMPT)
    assert_same_state(session, straight)


@pytest.mark.parametrize("position", [-1, 6])
def test_truncate_outside_the_tokens_is_refused(hybrid: moeflux.Model, position: int) -> None:
    session = hybrid.session()
    session.prefill([1, 2, 3, 4, 5])
    with pytest.raises(ValueError, match=f"position must be 0 .. 5, got {position}"):
        session.truncate(position)


def test_truncate_at_what_is_no_position_changes_nothing(hybrid: moeflux.Model) -> None:
    session = hybrid.session()
    session.prefill(PROMPT[:5])
    with pytest.raises(TypeError):
        session.truncate(2.5)  # type: ignore[arg-type]
    assert session.position == 5


def test_truncate_feeds_tokens_again_in_the_way_they_came(hybrid: moeflux.Model) -> None:
    session = hybrid.session()
    session.prefill(PROMPT[:10])
    for token in (1, 2, 3):
        session.decode(token)
    session.prefill(PROMPT[:7])
    fed: list[int] = []
    recorded = session._prefill.run
    session._prefill.run = lambda state, tokens: (  # type: ignore[method-assign]
        fed.append(len(tokens)),
        recorded(state, tokens),
    )[1]
    session.truncate(15)
    assert fed == [10, 2]
    assert session.position == 15


@pytest.mark.parametrize("way", ["rewind", "truncate"])
def test_going_back_helps_after_an_error(
    tiny_folder: CheckpointFolders, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    folder = tiny_folder("qwen3_5_moe", "mlx")
    with moeflux.load(folder, device="cpu") as model:
        session, straight = model.session(), model.session()
        session.prefill(PROMPT[:70])
        session.checkpoint()
        session.decode(3)
        with monkeypatch.context() as patch:
            patch.setattr(model.runtime.experts, "begin_fetch", fail)
            with pytest.raises(Failure):
                session.decode(4)
        assert session.dirty
        with pytest.raises(moeflux.SessionStateError, match="no checkpoint at position 71"):
            session.rewind(71)
        for refused in (session.checkpoint, session.fork):
            with pytest.raises(moeflux.SessionStateError, match="inside token 71"):
                refused()
        straight.prefill(PROMPT[:70])
        if way == "rewind":
            session.rewind(70)
        else:
            straight.decode(3)
            assert session.truncate(71) == 1
        assert not session.dirty
        assert_same_state(session, straight)


def test_a_closed_model_refuses_checkpoints_and_rewinds(attention: Path) -> None:
    with moeflux.load(attention, device="cpu") as model:
        session = model.session()
        session.prefill([1])
        session.checkpoint()
    for refused in (session.checkpoint, session.fork, lambda: session.rewind(0)):
        with pytest.raises(moeflux.SessionStateError, match="closed"):
            refused()
