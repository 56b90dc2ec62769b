"""Whatever the weight format, the same tokens give the same bits however they come in."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import moeflux
from goldens.cases import BFLOAT16, KINDS, QUANTISED, Layout, tiny_model, write
from tiny_checkpoint import HfLayout

LAYOUTS: dict[str, Layout] = {
    "raw bfloat16": BFLOAT16[0],
    "raw float32": HfLayout(dtype="F32"),
    "2 bits": QUANTISED["2bit_group32"][0],
    "mixed bits": QUANTISED["mixed"][0],
}
PROMPT = [3 + (11 * index) % 300 for index in range(150)]


@pytest.fixture(
    scope="module", params=[(kind, name) for kind in KINDS for name in LAYOUTS], ids="-".join
)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[moeflux.Model]:
    kind, name = request.param
    folder = tmp_path_factory.mktemp("checkpoint")
    write(tiny_model(kind), folder, LAYOUTS[name])
    with moeflux.load(folder, device="cpu") as loaded:
        yield loaded


def assert_same_bits(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


def test_chunks_that_break_at_blocks_give_the_same_bits(model: moeflux.Model) -> None:
    whole = model.session().prefill_all_logits(PROMPT)
    session = model.session()
    chunks = [PROMPT[:64], PROMPT[64:128], PROMPT[128:]]
    rows = [session.prefill_all_logits(chunk) for chunk in chunks]
    assert_same_bits(np.concatenate(rows), whole)


def test_tokens_after_a_reset_give_the_same_bits(model: moeflux.Model) -> None:
    session = model.session()
    expected = [session.prefill(PROMPT[:30]), session.decode(7)]
    session.reset()
    assert_same_bits(session.prefill(PROMPT[:30]), expected[0])
    assert_same_bits(session.decode(7), expected[1])


def test_interleaved_sessions_give_the_same_bits_as_one_alone(model: moeflux.Model) -> None:
    alone = model.session()
    expected = [alone.prefill(PROMPT[:30]), *(alone.decode(token) for token in (7, 8, 9))]
    first, second = model.session(), model.session()
    got = [first.prefill(PROMPT[:30])]
    second.prefill(PROMPT[40:120])
    for token in (7, 8, 9):
        got.append(first.decode(token))
        second.decode(token + 50)
    for actual, wanted in zip(got, expected, strict=True):
        assert_same_bits(actual, wanted)
