"""KL divergence: zero of a model with itself, else what the formula says of both models' logits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import moeflux
from moeflux.engine.budget import MemoryCapError
from moeflux.evaluation import ModelSource, NoRoomError, compare_checkpoints, comparison

TEXT = "def read_lines(path):\n    with open(path) as file:\n        return list(file)\n\n" * 5
DEMO = Path(moeflux.__file__).parent / "demo"


@pytest.fixture(scope="module")
def demo() -> Iterator[moeflux.Model]:
    with moeflux.load("demo", device="cpu") as model:
        yield model


@pytest.fixture(scope="module")
def coarse_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with experts of two bits."""
    folder = tmp_path_factory.mktemp("coarse") / "demo"
    moeflux.convert(DEMO, folder, bits=2)
    return folder


def test_a_model_does_not_diverge_from_itself(demo: moeflux.Model) -> None:
    result = moeflux.divergence(demo, demo, TEXT)
    assert result.mean == 0.0
    assert set(result.percentiles.values()) == {0.0}
    assert result.top_1_agreement == 1.0
    assert result.nats_per_token[0] == moeflux.perplexity(demo, TEXT).nats_per_token


def test_divergence_is_what_the_formula_says(demo: moeflux.Model, coarse_folder: Path) -> None:
    tokens = demo.tokenizer.encode(TEXT)
    with moeflux.load(coarse_folder, device="cpu") as coarse:
        result = moeflux.divergence(demo, coarse, TEXT)
        logits = [m.session(256).prefill_all_logits(tokens)[:-1] for m in (demo, coarse)]
    p, q = (np.exp(x.astype(np.float64)) for x in logits)
    p, q = (x / x.sum(axis=1, keepdims=True) for x in (p, q))
    expected = (p * np.log(p / q)).sum(axis=1)
    assert result.mean == pytest.approx(expected.mean(), rel=1e-6)
    assert result.mean > 0.01
    assert result.percentiles[50.0] == pytest.approx(np.median(expected), rel=1e-6)
    assert result.percentiles[100.0] == pytest.approx(expected.max(), rel=1e-6)
    assert result.top_1_agreement == np.mean(p.argmax(1) == q.argmax(1)) < 1
    targets = np.array(tokens[1:])
    rows = np.arange(len(targets))
    assert result.nats_per_token == pytest.approx(
        (-np.log(p[rows, targets]).mean(), -np.log(q[rows, targets]).mean()), rel=1e-6
    )


def test_one_after_the_other_gives_what_both_together_give(
    coarse_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = ModelSource(DEMO, "cpu"), ModelSource(coarse_folder, "cpu")
    together = compare_checkpoints(*sources, TEXT, window_size=96, stride=40)
    monkeypatch.setattr(comparison, "_load_both", _no_room)
    told: list[tuple[int, int, float | None]] = []
    apart = compare_checkpoints(
        *sources, TEXT, window_size=96, stride=40, progress=lambda *v: told.append(v)
    )
    assert apart == together
    n = together.n_tokens
    assert told[-1] == (2 * n, 2 * n, together.mean)
    assert told[0][1:] == (2 * n, None)


def _no_room(*_: object) -> None:
    needs = moeflux.load("demo", device="cpu").memory_needs
    raise MemoryCapError(1, needs)


def test_logits_without_space_on_disk_are_refused_before_they_are_computed(
    coarse_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "_load_both", _no_room)
    usage = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(comparison.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(NoRoomError, match=r"10 B free for the .* of logits"):
        compare_checkpoints(ModelSource(DEMO, "cpu"), ModelSource(coarse_folder, "cpu"), TEXT)


def test_both_models_share_the_memory_that_one_may_have() -> None:
    cap = moeflux.inspect("demo").floor_nbytes + 10 * 2**30
    compared = compare_checkpoints(
        ModelSource(DEMO, "cpu", cap), ModelSource(DEMO, "cpu", cap), TEXT
    )
    assert compared.mean == 0.0


def test_memory_for_neither_is_refused() -> None:
    source = ModelSource(DEMO, "cpu", "20MB")
    with pytest.raises(MemoryCapError, match="below the"):
        compare_checkpoints(source, source, TEXT)


def changed_demo(folder: Path, change: str) -> Path:
    """A copy of the demo model with another token where `change` says."""
    shutil.copytree(DEMO, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    if change == "token":
        name = next(name for name, number in vocabulary.items() if number == 8000)
        tokenizer["model"]["merges"] = [
            merge
            for merge in tokenizer["model"]["merges"]
            if "".join(merge).replace(" ", "") != name
        ]
        vocabulary["\u0120zebraic"] = vocabulary.pop(name)
    else:
        tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:100]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [("token", "wanted the same vocabulary, got token"), ("merges", "cut the text differently")],
)
def test_other_tokenizers_are_refused(
    demo: moeflux.Model, tmp_path: Path, change: str, message: str
) -> None:
    folder = changed_demo(tmp_path / "other", change)
    with pytest.raises(moeflux.DifferentVocabularyError, match=message):
        compare_checkpoints(ModelSource(DEMO), ModelSource(folder), TEXT)
    with (
        moeflux.load(folder, device="cpu") as other,
        pytest.raises(moeflux.DifferentVocabularyError, match=message),
    ):
        moeflux.divergence(demo, other, TEXT)
