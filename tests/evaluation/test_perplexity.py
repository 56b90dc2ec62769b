"""Perplexity against a computation of its own from the logits of whole windows."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

import moeflux
from moeflux.evaluation import windows
from moeflux.evaluation.windows import Windows

TEXT = '''
class Queue:
    """A queue object which holds items — first in, first out."""

    def __init__(self, maxsize=0):
        self._items = []
        self._maxsize = maxsize

    def put(self, item):
        if self._maxsize and len(self._items) >= self._maxsize:
            raise OverflowError("full")
        self._items.append(item)

    def get(self):
        return self._items.pop(0)
''' * 2  # fmt: skip


@pytest.fixture(scope="module")
def demo() -> Iterator[moeflux.Model]:
    with moeflux.load("demo", device="cpu") as model:
        yield model


def expected_nats(
    model: moeflux.Model, tokens: list[int], spans: list[tuple[int, int, int]]
) -> float:
    """Mean of -log softmax in float64; spans: begin, first scored token and end of each window."""
    nats: list[float] = []
    for begin, scored, end in spans:
        logits = model.session(4096).prefill_all_logits(tokens[begin:end]).astype(np.float64)
        for place in range(scored, end):
            row = logits[place - begin - 1]
            nats.append(math.log(np.exp(row).sum()) - row[tokens[place]])
    assert len(nats) == len(tokens) - 1
    return float(np.mean(nats))


def test_one_window_is_the_mean_of_every_token_but_the_first(demo: moeflux.Model) -> None:
    tokens = demo.tokenizer.encode(TEXT)
    result = moeflux.perplexity(demo, TEXT)
    n = len(tokens)
    assert result.n_tokens == n - 1
    assert result.nats_per_token == pytest.approx(
        expected_nats(demo, tokens, [(0, 1, n)]), rel=1e-6
    )
    assert result.perplexity == pytest.approx(math.exp(result.nats_per_token))


@pytest.mark.parametrize(("size", "stride"), [(64, 64), (100, 40), (70, 1), (33, 32), (1, 1)])
def test_windows_score_every_token_once_with_their_context(
    demo: moeflux.Model, size: int, stride: int
) -> None:
    tokens = demo.tokenizer.encode(TEXT)[: 170 if stride > 1 else 75]
    text = demo.tokenizer.decode(tokens)
    assert demo.tokenizer.encode(text) == tokens
    spans = [(0, 1, min(size + 1, len(tokens)))]
    while spans[-1][2] < len(tokens):
        begin = spans[-1][0] + stride
        spans.append((begin, spans[-1][2], min(begin + size + 1, len(tokens))))
    result = moeflux.perplexity(demo, text, window_size=size, stride=stride)
    wanted = expected_nats(demo, tokens, spans)
    assert result.nats_per_token == pytest.approx(wanted, rel=1e-4)
    assert (result.window_size, result.stride) == (size, stride)


def test_pieces_of_logits_do_not_change_the_result(
    demo: moeflux.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = moeflux.perplexity(demo, TEXT)
    monkeypatch.setattr(windows, "PIECE_NBYTES", 1)
    assert moeflux.perplexity(demo, TEXT) == whole


def test_bits_per_byte_count_the_bytes_of_the_scored_tokens(demo: moeflux.Model) -> None:
    result = moeflux.perplexity(demo, TEXT)
    first = demo.tokenizer.token_bytes(demo.tokenizer.encode(TEXT)[0])
    assert result.n_bytes == len(TEXT.encode()) - len(first)
    total_bits = result.nats_per_token * result.n_tokens / math.log(2)
    assert result.bits_per_byte == pytest.approx(total_bits / result.n_bytes)


def test_standard_error_is_that_of_a_mean() -> None:
    mean, error = windows.mean_and_error([1.0, 2.0, 3.0, 6.0])
    assert mean == 3.0
    assert error == pytest.approx(math.sqrt(14 / 3) / 2)
    assert windows.mean_and_error([5.0]) == (5.0, 0.0)


def test_progress_ends_with_the_result(demo: moeflux.Model) -> None:
    told: list[tuple[int, int, float | None]] = []
    result = moeflux.perplexity(
        demo, TEXT, window_size=64, progress=lambda *values: told.append(values)
    )
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert told[-1] == (result.n_tokens, result.n_tokens, result.nats_per_token)


def test_a_beginning_of_sequence_goes_before_every_window_and_scores_the_first_token() -> None:
    split = Windows(tokens=(5, 6, 7, 8, 9), first=(1,), size=4, stride=2)
    assert split.n_scored == 5
    assert list(split.spans()) == [(0, 0, 4), (2, 4, 5)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tokens": (5,)}, "has 1 tokens, of which none can be scored"),
        ({"tokens": ()}, "has 0 tokens"),
        ({"stride": 0}, "stride must be 1 .. 4 for windows of 4 tokens, got 0"),
        ({"stride": 5}, "got 5"),
    ],
)
def test_windows_that_score_nothing_are_refused(values: dict[str, object], message: str) -> None:
    given = {"tokens": (5, 6, 7), "first": (), "size": 4, "stride": 4} | values
    with pytest.raises(ValueError, match=message):
        Windows(**given)  # type: ignore[arg-type]


def test_a_window_beyond_the_models_limit_is_refused(demo: moeflux.Model) -> None:
    with pytest.raises(ValueError, match="for this model, got 5000"):
        moeflux.perplexity(demo, TEXT, window_size=5000)
