"""Which positions are kept, how prefixes are named, and which of them gives way."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from moeflux.engine.prefixes.tree import boundaries, dispensable, lineage, prefix_keys, root_key
from moeflux.engine.snapshots.identity import StateIdentity

TOKENS = list(range(200))


@dataclass(frozen=True)
class Entry:
    """A stored prefix."""

    parent: str
    used: int = 0
    nbytes: int = 1


@pytest.mark.parametrize(
    ("n_tokens", "ends", "wanted"),
    [
        (200, [], (192,)),
        (193, [], (192,)),
        (192, [], (128,)),
        (64, [], ()),
        (65, [], (64,)),
        (1, [], ()),
        (1000, [100, 300, 500, 700, 990], (64, 640, 960)),
        (1000, [700, 100], (64, 640, 960)),
        (1000, [63, 500], (448, 960)),
        (1000, [64], (64, 960)),
        (1000, [2000, -5, 0], (960,)),
        (1000, [1000], (960,)),
    ],
)
def test_boundaries(n_tokens: int, ends: list[int], wanted: tuple[int, ...]) -> None:
    assert boundaries([1] * n_tokens, ends) == wanted


def test_an_end_of_the_prompt_at_a_block_is_a_boundary_of_the_next_prompt() -> None:
    assert boundaries([1] * 128, [64, 128]) == (64, 128)


def test_keys_are_those_of_whole_blocks() -> None:
    assert list(prefix_keys("root", TOKENS)) == [64, 128, 192]
    assert prefix_keys("root", TOKENS[:63]) == {}


def test_a_key_depends_on_every_token_before_it_and_on_none_behind() -> None:
    keys = prefix_keys("root", TOKENS)
    other = prefix_keys("root", [*TOKENS[:100], 7, *TOKENS[101:]])
    assert keys[64] == other[64]
    assert keys[128] != other[128]
    assert keys[192] != other[192]
    assert prefix_keys("other", TOKENS)[64] != keys[64]
    assert len(set(keys.values())) == 3


def test_models_devices_and_programs_have_roots_of_their_own() -> None:
    roots = {
        root_key(StateIdentity(*origin))
        for origin in [("m", "d", "p"), ("n", "d", "p"), ("m", "e", "p"), ("m", "d", "q")]
    }
    assert len(roots) == 4


def test_a_lineage_is_first_to_last_from_all_tiers() -> None:
    memory = {"c": Entry("b"), "a": Entry("root")}
    folder = {"b": Entry("a")}
    assert lineage("c", "root", (memory, folder)) == ["a", "b", "c"]
    assert lineage("root", "root", (memory, folder)) == []


def test_a_lineage_with_a_gap_is_none() -> None:
    assert lineage("c", "root", ({"c": Entry("b"), "a": Entry("root")},)) is None
    assert lineage("a", "other root", ({"a": Entry("root")},)) is None


def test_a_lineage_in_a_circle_is_none() -> None:
    assert lineage("a", "root", ({"a": Entry("b"), "b": Entry("a")},)) is None


def test_the_least_recently_used_leaf_gives_way_first() -> None:
    stored = {
        "a": Entry("root", used=1),
        "b": Entry("a", used=2),
        "c": Entry("a", used=5),
        "d": Entry("root", used=3),
    }
    assert list(dispensable(stored, ())) == ["b", "d", "c", "a"]
    assert list(dispensable(stored, ("c",))) == ["b", "d"]
