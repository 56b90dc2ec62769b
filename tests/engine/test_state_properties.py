"""Random operations on a tree of sessions, against a list of tokens and a run from scratch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sequences import PROBE, assert_same_bits

import moeflux
from tiny_checkpoint import CheckpointFolders

CONTEXT = 256
MAX_SESSIONS = 3
TOKENS = st.integers(3, 250)
KINDS = ("qwen3_5_moe", "qwen3_next", "qwen3_moe")


@dataclass
class Followed:
    """A session, and what it should hold."""

    session: moeflux.Session
    tokens: list[int] = field(default_factory=list)
    checkpoints: set[int] = field(default_factory=set)

    def cut(self, position: int) -> None:
        del self.tokens[position:]
        self.checkpoints = {at for at in self.checkpoints if at <= position}


class Sequences(RuleBasedStateMachine):
    """The CPU backend gives the same bits whichever way tokens come in: one prompt is the judge."""

    def __init__(self, model: moeflux.Model, snapshot: Path) -> None:
        super().__init__()
        self.snapshot = snapshot
        self.model = model
        self.others: list[Followed] = []
        self.now = Followed(model.session(CONTEXT))
        self.straight = model.session(CONTEXT + 1)

    @rule(first=TOKENS, n_tokens=st.integers(1, 90))
    def prefill(self, first: int, n_tokens: int) -> None:
        tokens = [3 + (first + 7 * n) % 250 for n in range(n_tokens)]
        if len(self.now.tokens) + n_tokens > CONTEXT:
            with pytest.raises(moeflux.ContextOverflowError):
                self.now.session.prefill(tokens)
        else:
            self.now.session.prefill(tokens)
            self.now.tokens += tokens

    @rule(first=TOKENS, n_tokens=st.integers(1, 90))
    def prefill_part(self, first: int, n_tokens: int) -> None:
        """The first chunk of a prompt that is then left."""
        tokens = [3 + (first + 11 * n) % 250 for n in range(n_tokens)]
        if len(self.now.tokens) + n_tokens <= CONTEXT:
            n_done = next(self.now.session.prefill_chunks(tokens))
            self.now.tokens += tokens[:n_done]

    @precondition(lambda self: len(self.now.tokens) + 3 <= CONTEXT)
    @rule(tokens=st.lists(TOKENS, min_size=1, max_size=3))
    def decode(self, tokens: list[int]) -> None:
        for token in tokens:
            self.now.session.decode(token)
        self.now.tokens += tokens

    @rule()
    def checkpoint(self) -> None:
        assert self.now.session.checkpoint() == len(self.now.tokens)
        self.now.checkpoints.add(len(self.now.tokens))

    @rule(data=st.data())
    def rewind(self, data: st.DataObject) -> None:
        places = {0, len(self.now.tokens), *self.now.checkpoints}
        position = data.draw(st.sampled_from(sorted(places)))
        self.now.session.rewind(position)
        self.now.cut(position)

    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        position = data.draw(st.integers(0, len(self.now.tokens)))
        self.now.session.truncate(position)
        self.now.cut(position)

    @precondition(lambda self: len(self.others) + 1 < MAX_SESSIONS)
    @rule(goes_on=st.booleans())
    def fork(self, *, goes_on: bool) -> None:
        now = self.now
        fork = Followed(now.session.fork(), now.tokens.copy(), now.checkpoints.copy())
        self.others.append(now if goes_on else fork)
        self.now = fork if goes_on else now

    @rule()
    def save_and_restore(self) -> None:
        """Checkpoints are not part of a snapshot."""
        self.now.session.save(self.snapshot)
        self.now = Followed(self.model.restore(self.snapshot), self.now.tokens)

    @precondition(lambda self: self.others)
    @rule()
    def change_sessions(self) -> None:
        self.others.append(self.now)
        self.now = self.others.pop(0)

    @rule()
    def reset(self) -> None:
        self.now.session.reset()
        self.now.cut(0)
        self.now.checkpoints = set()

    @invariant()
    def sessions_hold_what_they_should(self) -> None:
        for followed in (self.now, *self.others):
            assert followed.session.tokens == tuple(followed.tokens)
            assert followed.session.checkpoints == tuple(sorted(followed.checkpoints))

    def teardown(self) -> None:
        for followed in (self.now, *self.others):
            session = followed.session.fork(CONTEXT + 1)
            self.straight.reset()
            expected = self.straight.prefill([*followed.tokens, PROBE])
            assert_same_bits(session.decode(PROBE), expected)


@contextmanager
def one_block_chunks(folder: object) -> Iterator[moeflux.Model]:
    chunks = moeflux.Settings(prefill_chunk=64)
    with moeflux.load(str(folder), device="cpu", settings=chunks) as model:
        yield model


@pytest.mark.parametrize("kind", KINDS)
def test_random_operations_give_the_bits_of_a_straight_run(
    tiny_folder: CheckpointFolders, tmp_path: Path, kind: str
) -> None:
    with one_block_chunks(tiny_folder(kind, "mlx")) as model:
        run_state_machine_as_test(
            lambda: Sequences(model, tmp_path / "snapshot"),
            settings=settings(max_examples=30, stateful_step_count=12, deadline=None),
        )
