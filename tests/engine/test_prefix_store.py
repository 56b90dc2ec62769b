"""Prompts that begin alike start behind what is stored, with the bits of a straight prefill."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sequences import PROMPT, assert_same_bits, assert_same_state

import moeflux
from moeflux.engine.prefixes.store import PrefixStore
from tiny_checkpoint import CheckpointFolders

KINDS = ("qwen3_5_moe", "qwen3_next", "qwen3_moe")
LONG = PROMPT + PROMPT[::-1]
Load = Callable[..., moeflux.Model]


@contextmanager
def storing(folder: Path, **options: str) -> Iterator[moeflux.Model]:
    chosen = moeflux.Settings(context_size=512, prefill_chunk=64, **options)
    with moeflux.load(folder, device="cpu", settings=chosen) as model:
        yield model


def store_of(model: moeflux.Model) -> PrefixStore:
    assert model.prefixes is not None
    return model.prefixes


def keep(model: moeflux.Model, tokens: Sequence[int], *positions: int) -> list[bool]:
    """Prefill in a new session, and keep at these positions."""
    session, done, kept = model.session(), 0, []
    for position in positions:
        session.prefill(tokens[done:position])
        kept.append(store_of(model).keep(session))
        done = position
    return kept


def resumed(model: moeflux.Model, tokens: Sequence[int]) -> int:
    """Resume in a new session and compare with a straight run; how many positions were stored."""
    session, straight = model.session(), model.session()
    position = store_of(model).resume(session, tokens)
    assert session.tokens == tuple(tokens[:position])
    assert_same_bits(session.prefill(tokens[position:]), straight.prefill(tokens))
    assert_same_state(session, straight)
    return position


@pytest.fixture(params=["memory", "folder", "both"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Settings of a store with room for all."""
    both = {"prefix_memory": "100MB", "prefix_folder": str(tmp_path / "prefixes")}
    names = {"memory": ["prefix_memory"], "folder": ["prefix_folder"], "both": list(both)}
    return {name: both[name] for name in names[request.param]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_prompt_has_the_bits_of_a_straight_prefill(
    tiny_folder: CheckpointFolders, places: dict[str, str], kind: str
) -> None:
    with storing(tiny_folder(kind, "mlx"), **places) as model:
        assert keep(model, LONG, 64, 192) == [True, True]
        assert resumed(model, LONG) == 192
        assert resumed(model, LONG[:150]) == 64
        assert resumed(model, [*LONG[:191], 7, 8]) == 64
        assert resumed(model, LONG[:193]) == 192


@pytest.fixture
def model(tiny_folder: CheckpointFolders) -> Iterator[moeflux.Model]:
    """A hybrid model that keeps prefixes in memory."""
    with storing(tiny_folder("qwen3_5_moe", "mlx"), prefix_memory="100MB") as loaded:
        yield loaded


def test_without_settings_there_is_no_store(hybrid: moeflux.Model) -> None:
    assert hybrid.prefixes is None


def test_a_prefix_as_long_as_the_prompt_is_too_long(model: moeflux.Model) -> None:
    keep(model, LONG, 64, 128)
    assert resumed(model, LONG[:128]) == 64
    assert resumed(model, LONG[:64]) == 0
    assert resumed(model, LONG[:1]) == 0


def test_another_prompt_finds_nothing(model: moeflux.Model) -> None:
    keep(model, LONG, 64)
    assert resumed(model, [9, *LONG]) == 0


def test_prompts_that_part_share_what_they_have_in_common(model: moeflux.Model) -> None:
    other = [*LONG[:100], *LONG[:100]]
    keep(model, LONG, 64, 192)
    before = store_of(model).counts.memory_nbytes
    keep(model, other, 64, 192)
    assert store_of(model).counts.memory_nbytes < 2 * before
    assert resumed(model, LONG) == 192
    assert resumed(model, other) == 192


def test_a_shorter_prefix_may_be_kept_after_a_longer_one(model: moeflux.Model) -> None:
    keep(model, LONG, 192)
    keep(model, LONG, 64)
    assert resumed(model, LONG) == 192
    assert resumed(model, LONG[:100]) == 64


def test_keeping_twice_takes_no_more_room(model: moeflux.Model) -> None:
    assert keep(model, LONG, 64) == [True]
    before = store_of(model).counts.memory_nbytes
    assert keep(model, LONG, 64) == [True]
    assert store_of(model).counts.memory_nbytes == before


def test_a_resumed_session_can_be_kept_further_on(model: moeflux.Model) -> None:
    keep(model, LONG, 64)
    session = model.session()
    store_of(model).resume(session, LONG)
    session.prefill(LONG[64:256])
    assert store_of(model).keep(session)
    assert resumed(model, LONG) == 256


def test_a_resumed_session_goes_back_like_another(model: moeflux.Model) -> None:
    keep(model, LONG, 128)
    session, straight = model.session(), model.session()
    store_of(model).resume(session, LONG)
    with pytest.raises(moeflux.SessionStateError, match="not known"):
        _ = session.logits
    session.truncate(70)
    straight.prefill(LONG[:70])
    assert_same_state(session, straight)


def test_decoded_tokens_are_not_kept(model: moeflux.Model) -> None:
    session = model.session()
    session.prefill(LONG[:63])
    session.decode(LONG[63])
    assert store_of(model).keep(session) is False
    assert resumed(model, LONG) == 0


def test_prompts_that_broke_inside_a_block_are_not_kept(model: moeflux.Model) -> None:
    session = model.session()
    session.prefill(LONG[:10])
    session.prefill(LONG[10:64])
    assert store_of(model).keep(session) is False


@pytest.mark.parametrize("position", [0, 63, 65])
def test_only_positions_at_blocks_are_kept(model: moeflux.Model, position: int) -> None:
    session = model.session()
    if position:
        session.prefill(LONG[:position])
    with pytest.raises(ValueError, match=f"multiples of 64, got position {position}"):
        store_of(model).keep(session)


def test_only_empty_sessions_are_filled(model: moeflux.Model) -> None:
    session = model.session()
    session.prefill([1, 2])
    with pytest.raises(moeflux.SessionStateError, match="got one at position 2"):
        store_of(model).resume(session, LONG)


@pytest.mark.parametrize(
    ("tokens", "what"), [([], "at least one token"), ([2**40], "ids 0 .. 319")]
)
def test_a_prompt_that_prefill_would_refuse_is_refused(
    model: moeflux.Model, tokens: list[int], what: str
) -> None:
    with pytest.raises(ValueError, match=what):
        store_of(model).resume(model.session(), tokens)


def test_a_session_too_small_for_a_prefix_gets_a_shorter_one(model: moeflux.Model) -> None:
    keep(model, LONG, 64, 192)
    session = model.session(100)
    assert store_of(model).resume(session, LONG) == 64


def test_counts_tell_what_was_resumed(model: moeflux.Model) -> None:
    keep(model, LONG, 64, 192)
    for tokens in (LONG, LONG[:100], LONG[1:]):
        store_of(model).resume(model.session(), tokens)
    counts = store_of(model).counts
    assert (counts.n_resumed, counts.n_missed, counts.n_resumed_tokens) == (2, 1, 256)
    assert counts.n_failed == 0


def test_counts_can_be_read_while_a_prompt_is_kept(model: moeflux.Model) -> None:
    counted: list[object] = []
    reader = threading.Thread(target=lambda: counted.append(store_of(model).counts))
    with store_of(model)._lock:
        reader.start()
        reader.join(timeout=60)
    assert len(counted) == 1


def test_what_is_used_stays_and_the_rest_gives_way(tiny_folder: CheckpointFolders) -> None:
    folder = tiny_folder("qwen3_5_moe", "mlx")
    prompts = [[n, *LONG] for n in range(3, 8)]
    with storing(folder, prefix_memory="100MB") as model:
        keep(model, prompts[0], 64)
        nbytes = store_of(model).counts.memory_nbytes
    with storing(folder, prefix_memory=str(3 * nbytes)) as model:
        for prompt in prompts:
            assert keep(model, prompt, 64) == [True]
            assert store_of(model).counts.memory_nbytes <= 3 * nbytes
            assert resumed(model, prompts[0]) == 64
        assert [resumed(model, prompt) for prompt in prompts] == [64, 0, 0, 64, 64]


def test_a_prefix_larger_than_the_store_is_not_kept(tiny_folder: CheckpointFolders) -> None:
    with storing(tiny_folder("qwen3_5_moe", "mlx"), prefix_memory="1000") as model:
        assert keep(model, LONG, 64) == [False]
        assert store_of(model).counts.memory_nbytes == 0


def test_a_store_never_gives_up_a_prefix_for_its_own_continuation(
    tiny_folder: CheckpointFolders,
) -> None:
    folder = tiny_folder("qwen3_5_moe", "mlx")
    with storing(folder, prefix_memory="100MB") as model:
        keep(model, LONG, 64)
        nbytes = store_of(model).counts.memory_nbytes
    with storing(folder, prefix_memory=str(nbytes + 1000)) as model:
        assert keep(model, LONG, 64, 128) == [True, False]
        assert resumed(model, LONG) == 64


def joined(blocks: list[list[int]]) -> list[int]:
    return list(chain.from_iterable(blocks))


@pytest.mark.parametrize("kind", ["qwen3_5_moe", "qwen3_moe"])
def test_random_prompts_within_tight_budgets_have_the_right_bits(
    tiny_folder: CheckpointFolders, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    blocks = [[3 + (step * n) % 250 for n in range(64)] for step in (7, 11, 13)]
    prompts = st.lists(st.sampled_from(blocks), min_size=1, max_size=4).map(joined)
    rounds = st.lists(st.tuples(prompts, st.sets(st.integers(1, 4))), min_size=1, max_size=8)

    @settings(max_examples=12, deadline=None)
    @given(rounds=rounds, memory=st.integers(0, 3), disk=st.integers(0, 3))
    def check(rounds: list[tuple[list[int], set[int]]], memory: int, disk: int) -> None:
        options = {"prefix_memory": str(memory * 100_000)}
        if disk:
            place = tmp_path_factory.mktemp("prefixes")
            options |= {"prefix_folder": str(place), "prefix_disk": str(disk * 100_000)}
        elif not memory:
            return
        with storing(tiny_folder(kind, "mlx"), **options) as model:
            for prompt, ends in rounds:
                places = [64 * end for end in sorted(ends) if 64 * end <= len(prompt)]
                keep(model, prompt, *places)
                resumed(model, [*prompt, 5])
                counts = store_of(model).counts
                assert counts.memory_nbytes <= memory * 100_000
                assert counts.n_failed == 0
                if disk:
                    sizes = [path.stat().st_size for path in place.iterdir()]
                    assert sum(sizes) <= disk * 100_000

    check()
