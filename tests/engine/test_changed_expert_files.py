"""Expert files of a packed checkpoint that change while a model is in use."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import moeflux
from moeflux.checkpoint.convert import convert
from moeflux.errors import ExpertReadError
from tiny_checkpoint import TinyModel, write_mlx

PROMPT = [3 + (7 * index) % 250 for index in range(20)]
LAYER_FILE = Path("experts") / "layer_01.bin"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("packed")
    write_mlx(TinyModel(), root / "source")
    convert(root / "source", root / "packed")
    return root / "packed"


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "copy"))


@pytest.fixture
def model(copy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[moeflux.Model]:
    """With two slots, so that nearly every expert is read."""
    monkeypatch.setattr("moeflux.engine.budget.resident_memory", lambda: 0)
    settings = moeflux.Settings(verify="always")
    with moeflux.load(copy, device="cpu", settings=settings) as probe:
        needs = probe.memory_needs
    with moeflux.load(copy, device="cpu", memory=needs.floor_nbytes, settings=settings) as model:
        yield model


def rewrite_last_byte(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")


def truncate(path: Path) -> None:
    os.truncate(path, 4096)


@pytest.mark.parametrize(
    ("change", "message"),
    [(truncate, "changed while in use"), (rewrite_last_byte, "was rewritten while in use")],
)
def test_changed_file_is_an_error_that_names_it(
    model: moeflux.Model, copy: Path, change: object, message: str
) -> None:
    assert callable(change)
    session = model.session()
    session.prefill(PROMPT)
    change(copy / LAYER_FILE)
    with pytest.raises(moeflux.ReadError, match=rf"layer_01\.bin {message}"):
        session.decode(4)
    with pytest.raises(moeflux.SessionStateError, match="reset"):
        session.decode(4)


def test_replaced_or_unlinked_files_change_nothing(model: moeflux.Model, copy: Path) -> None:
    session = model.session()
    expected = [session.prefill(PROMPT), session.decode(5)]
    for path in (copy / "experts").iterdir():
        size = path.stat().st_size
        path.unlink()
        if path.name != LAYER_FILE.name:
            path.write_bytes(bytes(size))
    session.reset()
    for wanted, got in zip(expected, [session.prefill(PROMPT), session.decode(5)], strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_file_shortened_inside_a_step_is_an_error_with_layer_and_expert(
    model: moeflux.Model, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it happened after the step's own look at the files."""
    monkeypatch.setattr(model.runtime.files, "check", lambda: None)
    session = model.session()
    expected = session.prefill(PROMPT)
    content = (copy / LAYER_FILE).read_bytes()
    os.truncate(copy / LAYER_FILE, 4096)
    session.reset()
    with pytest.raises(ExpertReadError, match=r"layer 1 expert \d+: .*: end of file") as caught:
        session.prefill(PROMPT)
    error = caught.value
    assert (error.layer, error.path) == (1, str(copy / LAYER_FILE))
    assert error.wanted > error.got
    assert error.errno == 0
    (copy / LAYER_FILE).write_bytes(content)
    session.reset()
    np.testing.assert_array_equal(session.prefill(PROMPT), expected)


def test_bytes_altered_inside_a_step_are_an_error_with_both_checksums(
    model: moeflux.Model, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.runtime.files, "check", lambda: None)
    content = bytearray((copy / LAYER_FILE).read_bytes())
    for offset in range(100, len(content), 16 * 1024):
        content[offset] ^= 1
    with (copy / LAYER_FILE).open("r+b") as file:
        file.write(content)
    with pytest.raises(
        ExpertReadError, match=r"layer 1 expert \d+: .*: wanted checksum [0-9a-f]{8}, got"
    ):
        model.session().prefill(PROMPT)
