"""Models of every family and weight format compute what transformers computed for the goldens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import moeflux
from goldens.cases import digest, golden_cases, write
from goldens.expected import (
    Expected,
    assert_each_token_agrees,
    assert_greedy_tokens_agree,
    assert_whole_prompt_agrees,
)

Pair = tuple[moeflux.Session, Expected]


VARIANTS = {
    f"{case.name}-{index}": (case, layout)
    for case in golden_cases()
    for index, layout in enumerate(case.layouts)
}


@pytest.fixture(scope="module", params=VARIANTS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """A session on a checkpoint that is written here, and its golden."""
    case, layout = VARIANTS[request.param]
    checkpoint = write(case.model, tmp_path_factory.mktemp("checkpoint"), layout)
    expected, made_from = Expected.load(case.path)
    assert digest(checkpoint) == made_from, (
        f"{case.path.name} was made from other weights or another config.json than the tests "
        "write now: run tests/goldens/make_model_goldens.py"
    )
    with moeflux.load(checkpoint.path, device="cpu") as model:
        yield model.session(), expected


def test_logits_of_the_whole_prompt_match(pair: Pair) -> None:
    assert_whole_prompt_agrees(*pair)


def test_logits_token_by_token_match(pair: Pair) -> None:
    assert_each_token_agrees(*pair)


def test_greedy_tokens_match(pair: Pair) -> None:
    assert_greedy_tokens_agree(*pair)
