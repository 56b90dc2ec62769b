"""Stop strings: found across pieces, nothing of them let through, nothing else lost."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeflux.engine.stop import StopMatcher

LETTERS = st.text("ab", max_size=30)
STOPS = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)


def stopped_text(text: str, stops: Sequence[str]) -> str:
    """The text before the stop string that is completed first; of two at once, the longer."""
    found = [(text.find(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
    if not found:
        return text
    end, length = min(found)
    return text[: end + length]


def run(pieces: Sequence[str], stops: Sequence[str]) -> str:
    matcher = StopMatcher(stops)
    through = ""
    for piece in pieces:
        emitted, stopped = matcher.feed(piece)
        through += emitted
        if stopped:
            return through
    return through + matcher.finish()


@given(st.lists(st.text("ab", max_size=6)), STOPS)
def test_text_let_through_is_that_before_the_first_stop_string(
    pieces: list[str], stops: list[str]
) -> None:
    assert run(pieces, stops) == stopped_text("".join(pieces), stops)


@given(LETTERS, STOPS)
def test_only_what_may_begin_a_stop_string_is_held_back(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    through = ""
    for n_read, character in enumerate(text, 1):
        emitted, stopped = matcher.feed(character)
        through += emitted
        if stopped:
            return
        held = text[len(through) : n_read]
        assert held == "" or any(stop.startswith(held) for stop in stops)


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        (["one<|", "im_", "end|>two"], ["<|im_end|>"], "one"),
        (["aaa", "aab"], ["aab"], "aaa"),
        (["ababa", "bac"], ["ababac"], "ab"),
        (["abcd"], ["abcd", "bc"], "a"),
        (["xabc"], ["bc", "abc"], "x"),
        (["STOP"], ["STOP"], ""),
        (["日本", "語の終", "わり"], ["の終わ"], "日本語"),
        (["line\n", "\nnext"], ["\n\n"], "line"),
        (["almost STO"], ["STOP"], "almost STO"),
        (["no stops"], [], "no stops"),
    ],
)
def test_stop_strings_across_pieces(pieces: list[str], stops: list[str], expected: str) -> None:
    assert run(pieces, stops) == expected


def test_matched_string_is_told() -> None:
    matcher = StopMatcher(["END", "\n"])
    assert matcher.matched is None
    assert matcher.feed("the E") == ("the ", False)
    assert matcher.feed("ND\n") == ("", True)
    assert matcher.matched == "END"


def test_nothing_comes_after_a_stop_string() -> None:
    matcher = StopMatcher(["."])
    assert matcher.feed("a.b") == ("a", True)
    assert matcher.feed("c") == ("", True)
    assert matcher.finish() == ""


@pytest.mark.parametrize("stops", [[""], ["a", ""], "stop", [1]])
def test_what_is_not_a_list_of_strings_is_refused(stops: object) -> None:
    with pytest.raises(ValueError, match="list of strings that are not empty"):
        StopMatcher(stops)  # type: ignore[arg-type]
