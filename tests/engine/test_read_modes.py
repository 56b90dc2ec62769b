"""Read modes, pieces of records and verification change no bit, packed or untouched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import moeflux
from moeflux.checkpoint.convert import convert
from tiny_checkpoint import MlxLayout, TinyModel, write_mlx

PROMPT = [3 + (11 * index) % 250 for index in range(70)]
N_DECODED = 6
N_SLOTS = 5
LAYOUTS = ("untouched", "unaligned", "packed")

Run = Callable[..., tuple[np.ndarray, moeflux.Model]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same weights in every layout."""
    root = tmp_path_factory.mktemp("read_modes")
    folders = {layout: root / layout for layout in LAYOUTS}
    write_mlx(TinyModel(), folders["untouched"])
    write_mlx(TinyModel(), folders["unaligned"], MlxLayout(aligned=False))
    convert(folders["untouched"], folders["packed"])
    return folders


@pytest.fixture
def run(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Logits of a greedy run with few slots, and the closed model."""
    monkeypatch.setattr("moeflux.engine.budget.resident_memory", lambda: 0)

    def run(layout: str, **settings: object) -> tuple[np.ndarray, moeflux.Model]:
        chosen = moeflux.Settings(**settings)  # type: ignore[arg-type]
        folder = folders[layout]
        with moeflux.load(folder, device="cpu", settings=chosen) as probe:
            needs = probe.memory_needs
        memory = needs.fixed_nbytes + N_SLOTS * needs.slot_nbytes
        with moeflux.load(folder, device="cpu", memory=memory, settings=chosen) as model:
            session = model.session()
            rows = [session.prefill(PROMPT)]
            for _ in range(N_DECODED):
                rows.append(session.decode(int(rows[-1].argmax())))
        return np.stack(rows), model

    return run


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "settings",
    [
        {"read_mode": "page-cache"},
        {"read_mode": "page-cache", "n_read_parts": 3},
        {"read_mode": "direct"},
        {"read_mode": "direct", "n_read_parts": 3},
        {"read_mode": "auto"},
        {"read_mode": "direct", "verify": "always"},
        {"n_read_parts": 3, "verify": "always"},
        {"verify": "sample"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_logits_are_the_same_bits(run: Run, layout: str, settings: dict[str, object]) -> None:
    expected, _ = run("untouched", read_mode="page-cache", verify="off", prefetch="off")
    logits, _ = run(layout, **settings)
    np.testing.assert_array_equal(logits.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_read_mode_says_what_was_chosen_and_why(run: Run, layout: str) -> None:
    modes = {
        mode: run(layout, read_mode=mode)[1].runtime.experts.read_mode
        for mode in ("page-cache", "direct", "auto")
    }
    assert (modes["page-cache"].direct, modes["page-cache"].reason) == (False, "asked for")
    assert modes["direct"].direct == (modes["direct"].reason == "asked for")
    if modes["direct"].direct:
        assert modes["auto"].reason.startswith("measured: page cache ")
    else:
        assert modes["direct"].reason.startswith("direct reads do not work: ")
        assert modes["auto"] == modes["direct"]
