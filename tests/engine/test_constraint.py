"""Constrained generation: what has ended is what was asked for, whatever the model would say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import moeflux
from moeflux.engine.constraint import Constraint, ConstraintRun
from moeflux.engine.guidance import Guidance
from moeflux.tokenizer import Tokenizer

PROMPT = "def main():"
SEEDS = range(4)


@pytest.fixture(scope="module")
def demo() -> Iterator[moeflux.Model]:
    with moeflux.load("demo", device="cpu") as model:
        yield model


def texts(
    model: moeflux.Model, constraint: Constraint, **options: Any
) -> Iterator[tuple[str, moeflux.Event]]:
    """The text and the last event for several seeds and temperatures."""
    for seed in SEEDS:
        chosen = {"temperature": (0.7, 1.0, 1.5, 3.0)[seed], "max_tokens": 300} | options
        *others, last = model.generate(PROMPT, seed=seed, constraint=constraint, **chosen)
        yield "".join(event.text for event in (*others, last)), last


# ---- what has ended is right ----

POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "label": {"enum": ["a b", 'quote"', "é"]}},
    "required": ["x", "label"],
    "additionalProperties": False,
}


def is_point(value: Any) -> bool:
    is_number = isinstance(value["x"], int) and not isinstance(value["x"], bool)
    return value.keys() == {"x", "label"} and is_number and value["label"] in ("a b", 'quote"', "é")


SCHEMAS: dict[str, tuple[Any, Callable[[Any], bool]]] = {
    "boolean": ({"type": "boolean"}, lambda value: value is True or value is False),
    "object": (POINT, is_point),
    "array": (
        {"type": "array", "items": POINT, "minItems": 1, "maxItems": 2},
        lambda value: 1 <= len(value) <= 2 and all(map(is_point, value)),
    ),
    "bounds": (
        {"type": "integer", "minimum": -3, "maximum": 12},
        lambda value: type(value) is int and -3 <= value <= 12,
    ),
    "string": (
        {"type": "string", "minLength": 2, "maxLength": 5},
        lambda value: isinstance(value, str) and 2 <= len(value) <= 5,
    ),
    "pattern": (
        {"type": "string", "pattern": "^[0-9]{2}-[a-z]{1,3}$"},
        lambda value: re.fullmatch("[0-9]{2}-[a-z]{1,3}", value) is not None,
    ),
    "reference": (
        {
            "$defs": {"yes": {"const": {"yes": [None]}}},
            "anyOf": [{"$ref": "#/$defs/yes"}, {"type": "null"}],
        },
        lambda value: value is None or value == {"yes": [None]},
    ),
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_finished_json_is_of_the_schema(demo: moeflux.Model, name: str) -> None:
    schema, is_right = SCHEMAS[name]
    for text, last in texts(demo, demo.guidance.json_schema(schema)):
        assert last.finish_reason == "stop", text
        assert is_right(json.loads(text)), text


@pytest.mark.parametrize("schema", [{"type": "object"}, {}])
def test_json_of_any_kind_parses_where_it_has_ended(
    demo: moeflux.Model, schema: dict[str, str]
) -> None:
    constraint = demo.guidance.json_schema(schema)
    reasons = []
    for text, last in texts(demo, constraint):
        reasons.append(last.finish_reason)
        if last.finish_reason == "stop":
            assert isinstance(json.loads(text), dict) or not schema
    assert "stop" in reasons


@pytest.mark.parametrize(
    "pattern",
    [
        "[a-z]{3}x",
        r"(foo|ba+r)/\d{2,4}",
        " leading space",
        "é{2}☃|😀",
        r'"[^"\n]{0,9}"',
        r"\d{4}-\d{2}-\d{2}(T\d{2}:\d{2})?",
    ],
)
def test_finished_text_matches_the_regular_expression(demo: moeflux.Model, pattern: str) -> None:
    for text, last in texts(demo, demo.guidance.regex(pattern), max_tokens=120):
        if last.finish_reason == "stop":
            assert re.fullmatch(pattern, text), text
        else:
            assert "+" in pattern


def test_finished_text_is_of_the_grammar(demo: moeflux.Model) -> None:
    """Balanced brackets, which no regular expression can ask for."""
    lark = 'start: "[" start? "]" | "(" start ")" start?'
    closing = {token_id: 8.0 for text in "])" for token_id in demo.tokenizer.encode(text)}
    constraint, n_ended = demo.guidance.grammar(lark), 0
    for text, last in texts(demo, constraint, logit_bias=closing):
        depth = 0
        for character in text:
            assert character in "[]()"
            depth += 1 if character in "[(" else -1
            assert depth >= 0
        if last.finish_reason == "stop":
            n_ended += 1
            assert depth == 0
    assert n_ended


# ---- how it ends ----


def test_cut_by_max_tokens_it_says_length(demo: moeflux.Model) -> None:
    for text, last in texts(demo, demo.guidance.regex("[ab]{400}"), max_tokens=7):
        assert last.finish_reason == "length"
        assert re.fullmatch("[ab]{7,399}", text)


def test_it_stops_with_the_token_after_which_nothing_may_follow(hybrid: moeflux.Model) -> None:
    constraint = hybrid.guidance.regex("abc")
    *others, last = hybrid.generate(PROMPT, constraint=constraint)
    assert [event.text for event in (*others, last)] == ["a", "b", "c"]
    assert last.finish_reason == "stop"
    assert last.token_id not in hybrid.tokenizer.eos_token_ids


def test_the_last_token_of_both_is_a_stop(hybrid: moeflux.Model) -> None:
    constraint = hybrid.guidance.regex("abc")
    *_, last = hybrid.generate(PROMPT, constraint=constraint, max_tokens=3)
    assert last.finish_reason == "stop"


def test_the_end_of_sequence_is_allowed_only_where_the_text_may_end(hybrid: moeflux.Model) -> None:
    (eos,) = hybrid.tokenizer.eos_token_ids
    constraint = hybrid.guidance.regex("ab+")
    *others, last = hybrid.generate(PROMPT, constraint=constraint, logit_bias={eos: 1000.0})
    assert "".join(event.text for event in others) == "ab"
    assert (last.text, last.token_id, last.finish_reason) == ("", eos, "stop")


def test_a_stop_string_ends_it_before_its_end(hybrid: moeflux.Model) -> None:
    constraint = hybrid.guidance.regex("abcdef")
    *others, last = hybrid.generate(PROMPT, constraint=constraint, stop=["d"])
    assert "".join(event.text for event in (*others, last)) == "abc"
    assert last.stop_text == "d"


# ---- which tokens ----


def test_control_tokens_spell_no_text(demo: moeflux.Model) -> None:
    tokens = demo.tokenizer.control_tokens
    bias = dict.fromkeys(tokens.values(), 1000.0)
    constraint = demo.guidance.regex(r"[<>|a-z_\x00-\x7f]{12,40}")
    for event in demo.generate(PROMPT, constraint=constraint, logit_bias=bias, max_tokens=6):
        assert event.token_id not in set(tokens.values()) - demo.tokenizer.eos_token_ids


def test_ids_without_a_token_are_never_chosen(hybrid: moeflux.Model) -> None:
    padded = hybrid.config.vocab_size - 1
    assert hybrid.tokenizer.token_bytes(padded) == b""
    constraint = hybrid.guidance.regex("[a-z]{5}")
    events = hybrid.generate(PROMPT, constraint=constraint, logit_bias={padded: 1000.0})
    assert all(event.token_id != padded for event in events)


class Cycle:
    """A constraint of our own: token ids one after another, over and over."""

    def __init__(self, *token_ids: int) -> None:
        self.token_ids = token_ids
        self.n_accepted = 0

    def start(self) -> ConstraintRun:
        return Cycle(*self.token_ids)

    @property
    def ended(self) -> bool:
        return False

    def allowed(self, vocabulary: int) -> NDArray[np.bool_]:
        return np.arange(vocabulary) == self.token_ids[self.n_accepted % len(self.token_ids)]

    def accept(self, token_id: int) -> None:
        assert token_id == self.token_ids[self.n_accepted % len(self.token_ids)]
        self.n_accepted += 1


def test_any_constraint_decides_what_may_be_chosen(hybrid: moeflux.Model) -> None:
    events = hybrid.generate(PROMPT, constraint=Cycle(9, 77, 8), max_tokens=5, temperature=2.0)
    assert [event.token_id for event in events] == [9, 77, 8, 9, 77]


def test_where_nothing_is_allowed_it_is_an_error(hybrid: moeflux.Model) -> None:
    generation = hybrid.generate(PROMPT, constraint=Cycle(10**6))
    with pytest.raises(moeflux.MoefluxError, match="none of 320 tokens is allowed"):
        next(generation)


def test_generations_under_one_constraint_do_not_disturb_each_other(hybrid: moeflux.Model) -> None:
    constraint = hybrid.guidance.regex("abcd")
    generations = [hybrid.generate(PROMPT, constraint=constraint) for _ in range(2)]
    pieces = [[next(generation).text for generation in generations] for _ in range(4)]
    assert pieces == [["a", "a"], ["b", "b"], ["c", "c"], ["d", "d"]]


def test_a_token_that_is_not_allowed_is_an_error(hybrid: moeflux.Model) -> None:
    run = hybrid.guidance.regex("abc").start()
    with pytest.raises(moeflux.ConstraintError, match="regular expression 'abc'"):
        run.accept(hybrid.tokenizer.encode("b")[0])


# ---- what is refused ----


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda guidance: guidance.json_schema({"type": "objekt"}), "JSON schema: .*objekt"),
        (lambda guidance: guidance.json_schema({"not": {}}), "JSON schema: .*not"),
        (
            lambda guidance: guidance.json_schema({"not": {}, "x-guidance": {"lenient": True}}),
            "JSON schema: .*not",
        ),
        (lambda guidance: guidance.json_schema([1]), r"JSON schema: wanted an object, got \[1\]"),
        (lambda guidance: guidance.json_schema({"type": {1}}), "JSON schema: wanted JSON"),
        (lambda guidance: guidance.json_schema({"const": float("nan")}), "wanted JSON"),
        (lambda guidance: guidance.json_schema({"pattern": "(a"}), "JSON schema: .*regex"),
        (lambda guidance: guidance.regex("(a"), r"regular expression '\(a': .*unclosed group"),
        (lambda guidance: guidance.regex("(?=a)b"), "look-around"),
        (lambda guidance: guidance.regex(""), "wanted a pattern, got an empty one"),
        (lambda guidance: guidance.grammar("start: foo"), 'grammar: .*unknown name: "foo"'),
        (lambda guidance: guidance.grammar(""), "grammar: Empty grammar"),
        (lambda guidance: guidance.grammar('start: "a" start'), "grammar: .*[Tt]oo many"),
        (lambda guidance: guidance.json_schema({"enum": []}), "JSON schema: Unsatisfiable"),
        (
            lambda guidance: guidance.json_schema({"$ref": "http://127.0.0.1:9/x.json"}),
            "JSON schema: .*not present",
        ),
        (
            lambda guidance: guidance.json_schema(
                {
                    "type": "object",
                    "properties": {f"p{number}": {"type": "string"} for number in range(2500)},
                }
            ),
            "JSON schema: .*max is 2000",
        ),
    ],
)
def test_what_is_no_constraint_is_refused(
    demo: moeflux.Model, make: Callable[[Guidance], object], message: str
) -> None:
    with pytest.raises(moeflux.ConstraintError, match=f"(?s){message}") as caught:
        make(demo.guidance)
    assert isinstance(caught.value, ValueError)


# ---- the vocabulary ----


def test_a_vocabulary_is_prepared_once(
    hybrid: moeflux.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, token_bytes = [], Tokenizer.token_bytes
    monkeypatch.setattr(
        Tokenizer,
        "token_bytes",
        lambda tokenizer, token_id: asked.append(token_id) or token_bytes(tokenizer, token_id),
    )
    for pattern in ("a", "b", "c"):
        hybrid.guidance.regex(pattern)
    assert asked == list(range(hybrid.tokenizer.vocab_size))


def test_a_tokenizer_without_an_end_of_sequence_ends_with_the_grammar(
    hybrid: moeflux.Model,
) -> None:
    tokenizer = hybrid.tokenizer
    tokenizer.eos_token_ids = frozenset()  # type: ignore[misc]
    *others, last = hybrid.generate(PROMPT, constraint=Guidance(tokenizer).regex("ab{1,2}"))
    assert "".join(event.text for event in (*others, last)) == "abb"
    assert last.finish_reason == "stop"


def test_nothing_of_it_is_imported_before_it_is_asked_for() -> None:
    code = "import sys, moeflux; print('llguidance' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
