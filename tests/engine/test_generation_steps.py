"""Generation in units of work: prefill chunks and decode steps, which several can interleave."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import moeflux
from moeflux.engine.generate import Generation
from tiny_checkpoint import CheckpointFolders

PROMPT_IDS = [3 + (7 * index) % 250 for index in range(150)]


@pytest.fixture
def chunked(tiny_folder: CheckpointFolders) -> Iterator[moeflux.Model]:
    """A tiny model whose prefill chunks have 64 tokens."""
    settings = moeflux.Settings(prefill_chunk=64)
    with moeflux.load(tiny_folder("qwen3_5_moe"), device="cpu", settings=settings) as loaded:
        yield loaded


def units(generation: Generation) -> list[moeflux.Event | moeflux.PrefillProgress]:
    found = []
    while (unit := generation.advance()) is not None:
        found.append(unit)
    return found


def token_ids(events: Iterator[moeflux.Event]) -> list[int]:
    return [event.token_id for event in events]


def test_a_prompt_is_prefilled_chunk_by_chunk(chunked: moeflux.Model) -> None:
    found = units(chunked.generate(PROMPT_IDS, max_tokens=2))
    progress = [moeflux.PrefillProgress(n_done, 0, 150) for n_done in (64, 128, 150)]
    assert found[:3] == progress
    assert [type(unit) for unit in found[3:]] == [moeflux.Event] * 2


def test_chunks_go_on_at_their_multiples_in_a_session_with_tokens(chunked: moeflux.Model) -> None:
    session = chunked.session()
    session.prefill([5, 6, 7, 8])
    found = units(chunked.generate(PROMPT_IDS, max_tokens=1, session=session))
    assert [unit.n_done for unit in found[:-1]] == [60, 124, 150]  # type: ignore[union-attr]


def test_a_step_of_the_session_is_done_in_each_unit(chunked: moeflux.Model) -> None:
    session = chunked.session()
    generation = chunked.generate(PROMPT_IDS, max_tokens=3, session=session)
    positions = []
    while generation.advance() is not None:
        positions.append(session.position)
    # The first token needs no decode step, the last one is not decoded.
    assert positions == [64, 128, 150, 150, 151, 152]


def test_units_have_the_events_of_iteration(chunked: moeflux.Model) -> None:
    def generation() -> Generation:
        return chunked.generate(PROMPT_IDS, max_tokens=6, temperature=1.0, seed=3)

    by_unit = [unit for unit in units(generation()) if isinstance(unit, moeflux.Event)]
    assert token_ids(iter(by_unit)) == token_ids(generation())


def test_interleaved_generations_are_as_if_alone(chunked: moeflux.Model) -> None:
    prompts = [PROMPT_IDS, PROMPT_IDS[40:], PROMPT_IDS[100:]]
    alone = [token_ids(chunked.generate(prompt, max_tokens=5)) for prompt in prompts]
    generations = [chunked.generate(prompt, max_tokens=5) for prompt in prompts]
    found: list[list[int]] = [[] for _ in prompts]
    for _ in range(3 + 5):
        for generation, tokens in zip(generations, found, strict=True):
            unit = generation.advance()
            if isinstance(unit, moeflux.Event):
                tokens.append(unit.token_id)
    assert found == alone


def test_nothing_follows_the_end(chunked: moeflux.Model) -> None:
    generation = chunked.generate([3, 4], max_tokens=1)
    *_, last = units(generation)
    assert isinstance(last, moeflux.Event)
    assert last.finish_reason == "length"
    assert generation.advance() is None


def test_nothing_follows_an_error(chunked: moeflux.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    generation = chunked.generate([3, 4], max_tokens=4)

    def fail(*_: object) -> None:
        raise moeflux.ReadError("gone")

    monkeypatch.setattr(chunked.runtime.experts, "fetch", fail)
    with pytest.raises(moeflux.ReadError):
        generation.advance()
    assert generation.advance() is None


def test_prefill_closed_half_way_keeps_what_it_cost(chunked: moeflux.Model) -> None:
    session = chunked.session()
    generation = chunked.generate(PROMPT_IDS, max_tokens=4, session=session)
    generation.advance()
    generation.close()
    stats = generation.stats
    assert (stats.prompt_tokens, stats.prefill.n_tokens, stats.generated_tokens) == (150, 64, 0)
    assert session.position == 64
    assert generation.advance() is None


# ---- what is asked for ----


def test_token_ids_are_a_prompt(hybrid: moeflux.Model) -> None:
    prompt_ids = hybrid.encode_prompt("def main():")
    expected = token_ids(hybrid.generate("def main():", max_tokens=5))
    assert token_ids(hybrid.generate(prompt_ids, max_tokens=5)) == expected


@pytest.mark.parametrize("token_id", [-1, 10**6])
def test_prompt_with_an_id_outside_the_vocabulary_is_refused_at_the_call(
    hybrid: moeflux.Model, token_id: int
) -> None:
    with pytest.raises(ValueError, match=f"token 1 of the prompt is {token_id}"):
        hybrid.generate([3, token_id])


def test_stop_string_that_ended_it_is_told(hybrid: moeflux.Model) -> None:
    whole = "".join(event.text for event in hybrid.generate("def main():", max_tokens=12))
    *others, last = hybrid.generate("def main():", max_tokens=12, stop=["\0\0\0", whole[3:5]])
    assert last.stop_text == whole[3:5]
    assert all(event.stop_text is None for event in others)


def test_end_at_the_last_token_tells_no_stop_string(hybrid: moeflux.Model) -> None:
    *_, last = hybrid.generate("def main():", max_tokens=3, stop=["\0\0\0"])
    assert (last.finish_reason, last.stop_text) == ("length", None)


@pytest.mark.parametrize("stop", ["text", [""]])
def test_stop_that_is_no_list_of_strings_is_refused_at_the_call(
    hybrid: moeflux.Model, stop: object
) -> None:
    with pytest.raises(ValueError, match="stop must be a list of strings"):
        hybrid.generate("def main():", stop=stop)  # type: ignore[arg-type]


def test_bias_decides_what_is_generated(hybrid: moeflux.Model) -> None:
    events = hybrid.generate("def main():", max_tokens=4, logit_bias={77: 1000.0})
    assert token_ids(events) == [77, 77, 77, 77]


def test_bias_of_an_id_outside_the_vocabulary_is_refused_at_the_call(
    hybrid: moeflux.Model,
) -> None:
    with pytest.raises(ValueError, match="logit_bias: token id 1000000 is outside"):
        hybrid.generate("def main():", logit_bias={10**6: 1.0})
