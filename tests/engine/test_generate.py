"""Generation: events, how it ends, what it counts."""

from __future__ import annotations

import pytest

import moeflux

PROMPT = "def main():"


def test_text_of_the_events_is_the_decoded_text(hybrid: moeflux.Model) -> None:
    events = list(hybrid.generate(PROMPT, max_tokens=12))
    ids = [event.token_id for event in events]
    assert "".join(event.text for event in events) == hybrid.tokenizer.decode(ids)


def test_greedy_generation_is_the_argmax_of_a_session(hybrid: moeflux.Model) -> None:
    events = list(hybrid.generate(PROMPT, max_tokens=6))
    session = hybrid.session()
    logits = session.prefill(hybrid.tokenizer.encode(PROMPT, add_bos=True))
    for event in events:
        assert event.token_id == int(logits.argmax())
        logits = session.decode(event.token_id)


def test_only_the_last_event_says_why_and_what_it_cost(hybrid: moeflux.Model) -> None:
    *others, last = hybrid.generate(PROMPT, max_tokens=5)
    assert all(event.finish_reason is None and event.stats is None for event in others)
    assert last.finish_reason == "length"
    assert last.stats is not None
    assert last.stats.generated_tokens == 5
    assert last.stats.prompt_tokens == len(hybrid.tokenizer.encode(PROMPT, add_bos=True))
    assert last.stats.bytes_read > 0
    assert last.stats.peak_memory_nbytes > 0


def test_same_seed_same_text(hybrid: moeflux.Model) -> None:
    runs = [
        [
            event.token_id
            for event in hybrid.generate(PROMPT, max_tokens=8, temperature=1.0, seed=seed)
        ]
        for seed in (7, 7, 8)
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_end_of_sequence_token_stops(hybrid: moeflux.Model) -> None:
    first = next(iter(hybrid.generate(PROMPT, max_tokens=2))).token_id
    hybrid.tokenizer.eos_token_ids = frozenset({first})  # type: ignore[misc]
    (event,) = hybrid.generate(PROMPT, max_tokens=5)
    assert event.finish_reason == "stop"
    assert event.token_id == first
    assert event.text == ""


def test_stop_string_ends_the_text_before_it(hybrid: moeflux.Model) -> None:
    whole = "".join(event.text for event in hybrid.generate(PROMPT, max_tokens=12))
    stop = whole[3:5]
    *_, last = events = list(hybrid.generate(PROMPT, max_tokens=12, stop=[stop]))
    assert last.finish_reason == "stop"
    assert "".join(event.text for event in events) == whole[: whole.index(stop)]


def test_generation_ends_where_the_context_does(hybrid: moeflux.Model) -> None:
    n_prompt = len(hybrid.tokenizer.encode(PROMPT, add_bos=True))
    session = hybrid.session(context_size=n_prompt + 3)
    *_, last = events = list(hybrid.generate(PROMPT, max_tokens=50, session=session))
    assert len(events) == 4
    assert last.finish_reason == "length"


def test_a_session_goes_on_where_it_stopped(hybrid: moeflux.Model) -> None:
    session = hybrid.session()
    list(hybrid.generate(PROMPT, max_tokens=4, session=session))
    position = session.position
    list(hybrid.generate("more", max_tokens=2, session=session))
    assert session.position > position


def test_an_abandoned_generation_leaves_the_model_usable(hybrid: moeflux.Model) -> None:
    expected = [event.token_id for event in hybrid.generate(PROMPT, max_tokens=6)]
    abandoned = hybrid.generate(PROMPT, max_tokens=6)
    next(abandoned)
    abandoned.close()  # type: ignore[attr-defined]
    assert [event.token_id for event in hybrid.generate(PROMPT, max_tokens=6)] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 2.0}, "top_p"),
    ],
)
def test_bad_parameters_are_refused_at_the_call(
    hybrid: moeflux.Model, arguments: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        hybrid.generate(PROMPT, **arguments)  # type: ignore[arg-type]


def test_empty_prompt_is_refused_at_the_call(hybrid: moeflux.Model) -> None:
    with pytest.raises(ValueError, match="prompt is empty"):
        hybrid.generate("")


def test_prompt_longer_than_the_context_is_refused_at_the_call(hybrid: moeflux.Model) -> None:
    with pytest.raises(moeflux.ContextOverflowError):
        hybrid.generate("word " * 50, session=hybrid.session(context_size=16))
