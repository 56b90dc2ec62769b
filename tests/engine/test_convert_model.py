"""A model converts itself, and the packed folder computes the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import moeflux


def test_packed_checkpoint_gives_the_same_bits(model: moeflux.Model, tmp_path: Path) -> None:
    tokens = list(range(5, 75))
    expected = model.session().prefill(tokens)
    model.convert(tmp_path / "packed")
    with moeflux.load(tmp_path / "packed", device="cpu") as packed:
        session = packed.session()
        logits = session.prefill(tokens)
    np.testing.assert_array_equal(logits.view(np.uint32), expected.view(np.uint32))


def test_packed_checkpoint_passes_verification(hybrid: moeflux.Model, tmp_path: Path) -> None:
    hybrid.convert(tmp_path / "packed")
    result = moeflux.verify(tmp_path / "packed")
    assert result.has_checksums
    assert result.damaged == ()
