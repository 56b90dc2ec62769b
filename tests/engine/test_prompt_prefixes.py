"""Prompts that begin like a stored one: restored, the rest prefilled, and worthy states kept."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import pytest

import moeflux
from moeflux.engine.prompt import PromptRun
from tiny_checkpoint import CheckpointFolders

EOS = 1
PROMPT_IDS = [3 + (7 * index) % 250 for index in range(300)]


class StoredBeginning:
    """Has the first `n_stored` tokens of any prompt, and wants to keep the positions `worth`."""

    def __init__(self, n_stored: int = 0, worth: tuple[int, ...] = ()) -> None:
        self.n_stored = n_stored
        self.worth = worth
        self.ends: list[int] | None = None
        self.kept: list[int] = []

    def boundaries(self, token_ids: Sequence[int], ends: Collection[int]) -> tuple[int, ...]:
        assert len(token_ids) == len(PROMPT_IDS)
        self.ends = list(ends)
        return self.worth

    def resume(self, session: moeflux.Session, token_ids: Sequence[int]) -> int:
        assert session.position == 0
        if self.n_stored:
            session.prefill(token_ids[: self.n_stored])
        return self.n_stored

    def keep(self, session: moeflux.Session) -> bool:
        self.kept.append(session.position)
        return True


@pytest.fixture
def chunked(tiny_folder: CheckpointFolders) -> Iterator[moeflux.Model]:
    settings = moeflux.Settings(prefill_chunk=128)
    with moeflux.load(tiny_folder("qwen3_5_moe"), device="cpu", settings=settings) as loaded:
        yield loaded


def progress_of(run: PromptRun) -> list[tuple[int, int]]:
    return [(unit.n_done, unit.n_cached) for unit in run.units()]


def test_what_is_stored_is_a_unit_of_its_own_and_not_computed(chunked: moeflux.Model) -> None:
    run = PromptRun(chunked.session(), PROMPT_IDS, StoredBeginning(192))
    assert progress_of(run) == [(192, 192), (256, 192), (300, 192)]
    assert (run.n_cached, run.n_computed) == (192, 108)


def test_without_a_stored_prefix_nothing_is_cached(chunked: moeflux.Model) -> None:
    for prefixes in (StoredBeginning(), None):
        run = PromptRun(chunked.session(), PROMPT_IDS, prefixes)
        assert progress_of(run) == [(128, 0), (256, 0), (300, 0)]


def test_chunks_break_where_states_are_kept(chunked: moeflux.Model) -> None:
    prefixes = StoredBeginning(worth=(64, 192, 256))
    run = PromptRun(chunked.session(), PROMPT_IDS, prefixes)
    assert [n_done for n_done, _ in progress_of(run)] == [64, 128, 192, 256, 300]
    assert prefixes.kept == [64, 192, 256]


def test_what_was_restored_is_not_kept_again(chunked: moeflux.Model) -> None:
    prefixes = StoredBeginning(192, worth=(64, 192, 256))
    progress_of(PromptRun(chunked.session(), PROMPT_IDS, prefixes))
    assert prefixes.kept == [256]


def test_turns_end_behind_the_tokens_that_end_them(chunked: moeflux.Model) -> None:
    prefixes, prompt_ids = StoredBeginning(), list(PROMPT_IDS)
    prompt_ids[99] = prompt_ids[210] = EOS
    progress_of(PromptRun(chunked.session(), prompt_ids, prefixes, {EOS}))
    assert prefixes.ends == [100, 211]


def test_restoring_and_keeping_change_no_bit(chunked: moeflux.Model) -> None:
    straight, session = chunked.session(), chunked.session()
    expected = straight.prefill(PROMPT_IDS)
    progress_of(PromptRun(session, PROMPT_IDS, StoredBeginning(64, worth=(192, 256))))
    np.testing.assert_array_equal(session.logits.view(np.uint32), expected.view(np.uint32))


# ---- generations ----


def test_a_generation_tells_what_was_cached(
    chunked: moeflux.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [event.token_id for event in chunked.generate(PROMPT_IDS, max_tokens=4)]
    prefixes = StoredBeginning(128, worth=(256,))
    monkeypatch.setattr(moeflux.Model, "prefixes", prefixes)
    *others, last = chunked.generate(PROMPT_IDS, max_tokens=4)
    assert [event.token_id for event in (*others, last)] == expected
    assert last.stats is not None
    assert (last.stats.prompt_tokens, last.stats.cached_tokens) == (300, 128)
    assert last.stats.prefill.n_tokens == 172
    assert prefixes.kept == [256]


def test_a_session_that_is_given_goes_on_without_the_store(
    chunked: moeflux.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moeflux.Model, "prefixes", StoredBeginning(128))
    session = chunked.session()
    *_, last = chunked.generate(PROMPT_IDS, max_tokens=1, session=session)
    assert last.stats is not None
    assert last.stats.cached_tokens == 0
