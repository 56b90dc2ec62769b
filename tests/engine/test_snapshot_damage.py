"""Snapshots that are cut, altered or foreign: one clear error, and the model goes on as before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sequences import PROMPT, assert_same_bits, capped
from stored_states import PRELUDE, StoredState, edited

import moeflux
from moeflux._core import crc32c
from tiny_checkpoint import CheckpointFolders

N_TOKENS = 70
Edit = Callable[[StoredState], object]


@pytest.fixture(scope="module", params=["qwen3_5_moe", "qwen3_moe"])
def model(
    request: pytest.FixtureRequest, tiny_folder: CheckpointFolders
) -> Iterator[moeflux.Model]:
    with moeflux.load(tiny_folder(request.param, "mlx"), device="cpu") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def whole(model: moeflux.Model, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A snapshot as it should be."""
    path = tmp_path_factory.mktemp("whole") / "chat"
    session = model.session(128)
    session.prefill(PROMPT[:N_TOKENS])
    session.save(path)
    return path.read_bytes()


def refused(model: moeflux.Model, path: Path, error: type[moeflux.SnapshotError]) -> str:
    """The message of the error; the model still computes what it did."""
    bystander = model.session(16)
    expected = bystander.prefill([7, 8, 9])
    bystander.truncate(0)
    with pytest.raises(moeflux.SnapshotError) as caught:
        model.restore(path)
    assert type(caught.value) is error
    assert str(caught.value).startswith(f"{path}: ")
    assert_same_bits(bystander.prefill([7, 8, 9]), expected)
    return str(caught.value)


def test_a_file_cut_anywhere_between_two_parts_is_damaged(
    model: moeflux.Model, whole: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "chat"
    path.write_bytes(whole)
    stored = StoredState.read(path)
    places = [0, 1, 8, 12, 16, PRELUDE.size]
    places.append(len(whole) - sum(map(len, stored.sections.values())))
    for data in stored.sections.values():
        places.append(places[-1] + len(data))
    assert places[-1] == len(whole)
    for place in {at + near for at in places for near in (-1, 0, 1)}:
        if 0 <= place < len(whole):
            path.write_bytes(whole[:place])
            refused(model, path, moeflux.SnapshotDamagedError)


def test_bytes_behind_the_end_are_damage(
    model: moeflux.Model, whole: bytes, tmp_path: Path
) -> None:
    (tmp_path / "chat").write_bytes(whole + b"\0")
    message = refused(model, tmp_path / "chat", moeflux.SnapshotDamagedError)
    assert f"wanted {len(whole)} bytes, got {len(whole) + 1}" in message


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_noticed(
    model: moeflux.Model,
    whole: bytes,
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    place = data.draw(st.integers(0, len(whole) - 1) | st.integers(0, 400))
    bit = data.draw(st.integers(0, 7))
    altered = bytearray(whole)
    altered[place] ^= 1 << bit
    path = tmp_path_factory.mktemp("flipped") / "chat"
    path.write_bytes(altered)
    is_version = 8 <= place < 12
    error = moeflux.SnapshotMismatchError if is_version else moeflux.SnapshotDamagedError
    refused(model, path, error)


@pytest.mark.parametrize("version", [0, 2])
def test_another_version_is_named(
    model: moeflux.Model, whole: bytes, tmp_path: Path, version: int
) -> None:
    (tmp_path / "chat").write_bytes(whole)
    edited(tmp_path / "chat", lambda stored: setattr(stored, "version", version))
    message = refused(model, tmp_path / "chat", moeflux.SnapshotMismatchError)
    assert f"has version {version}, this program reads version 1" in message


def test_foreign_files_are_damaged_snapshots(model: moeflux.Model, tmp_path: Path) -> None:
    for content in (b"", b"GGUF" + bytes(100), bytes(1000), b"{}" * 50):
        (tmp_path / "chat").write_bytes(content)
        refused(model, tmp_path / "chat", moeflux.SnapshotDamagedError)


FIELDS = (
    "kind",
    "dtype",
    "model",
    "device",
    "program",
    "parent",
    "first",
    "position",
    "context_size",
    "pieces",
    "sections",
)
ORIGIN = ("model", "device", "program")


def test_every_field_of_the_header_is_known_here(whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "chat").write_bytes(whole)
    assert set(StoredState.read(tmp_path / "chat").header) == set(FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_damage(
    model: moeflux.Model, whole: bytes, tmp_path: Path, field: str
) -> None:
    (tmp_path / "chat").write_bytes(whole)
    edited(tmp_path / "chat", lambda stored: stored.header.pop(field))
    refused(model, tmp_path / "chat", moeflux.SnapshotDamagedError)


OTHER_VALUES = [None, True, -1, 0, 1, 63, 71, 2**31, 2**64, 1.5, "", "x", [], [[]], [1], {}]


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_another_value_changes_nothing(
    model: moeflux.Model, whole: bytes, tmp_path: Path, field: str
) -> None:
    for value in OTHER_VALUES:
        (tmp_path / "chat").write_bytes(whole)
        is_the_same = StoredState.read(tmp_path / "chat").header[field] == value
        fits = field == "context_size" and value == 71 and value is not True
        if is_the_same or fits:
            continue
        edited(tmp_path / "chat", lambda stored, value=value: stored.header.update({field: value}))
        is_origin = field in ORIGIN and isinstance(value, str)
        error = moeflux.SnapshotMismatchError if is_origin else moeflux.SnapshotDamagedError
        refused(model, tmp_path / "chat", error)


def without_a_section(stored: StoredState) -> None:
    name = next(name for name in stored.sections if name.startswith("layer 3"))
    del stored.sections[name]
    stored.header["sections"] = [entry for entry in stored.header["sections"] if entry[0] != name]


def with_another_section(stored: StoredState) -> None:
    stored.header["sections"].append(["layer 9 rows 0", 0, "00000000"])


def with_a_section_twice(stored: StoredState) -> None:
    stored.header["sections"].append(["tokens", 0, "00000000"])


def with_shorter_rows(stored: StoredState) -> None:
    name = next(name for name in stored.sections if "rows" in name)
    stored.replace_section(name, stored.sections[name][:-4])


def with_a_token_less(stored: StoredState) -> None:
    stored.replace_section("tokens", stored.sections["tokens"][:-4])


def with_a_foreign_token(stored: StoredState) -> None:
    tokens = np.frombuffer(stored.sections["tokens"], "<i4").copy()
    tokens[3] = 10**6
    stored.replace_section("tokens", tokens.tobytes())


def with_shorter_logits(stored: StoredState) -> None:
    stored.replace_section("logits", stored.sections["logits"][:-4])


def with_a_huge_section(stored: StoredState) -> None:
    stored.header["sections"][0][1] = 2**62


def with_less_room_than_tokens(stored: StoredState) -> None:
    stored.header["context_size"] = N_TOKENS - 1


def with_more_room_than_the_model(stored: StoredState) -> None:
    stored.header["context_size"] = 4097


def with_fewer_pieces(stored: StoredState) -> None:
    stored.header["pieces"] = [[N_TOKENS - 1, True]]


@pytest.mark.parametrize(
    "edit",
    [
        without_a_section,
        with_another_section,
        with_a_section_twice,
        with_shorter_rows,
        with_a_token_less,
        with_a_foreign_token,
        with_shorter_logits,
        with_a_huge_section,
        with_less_room_than_tokens,
        with_more_room_than_the_model,
        with_fewer_pieces,
    ],
)
def test_contents_that_contradict_each_other_are_damage(
    model: moeflux.Model, whole: bytes, tmp_path: Path, edit: Edit
) -> None:
    (tmp_path / "chat").write_bytes(whole)
    edited(tmp_path / "chat", edit)
    refused(model, tmp_path / "chat", moeflux.SnapshotDamagedError)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b"\xff\xff", b"[" * 100_000, b'{"kind":1,"kind":1}']
)
def test_a_header_that_is_no_object_is_damage(
    model: moeflux.Model, tmp_path: Path, text: bytes
) -> None:
    prelude = PRELUDE.pack(b"MOEFLUX\0", 1, len(text), crc32c(text))
    (tmp_path / "chat").write_bytes(prelude + text)
    refused(model, tmp_path / "chat", moeflux.SnapshotDamagedError)


def test_a_damaged_file_takes_no_memory_of_the_cap(
    tiny_folder: CheckpointFolders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with capped(tiny_folder("qwen3_5_moe", "mlx"), 256, monkeypatch) as model:
        session = model.session()
        session.prefill(PROMPT[:10])
        session.save(tmp_path / "chat")
        del session
        data = bytearray((tmp_path / "chat").read_bytes())
        data[-1] ^= 1
        (tmp_path / "chat").write_bytes(data)
        for _ in range(3):
            with pytest.raises(moeflux.SnapshotDamagedError):
                model.restore(tmp_path / "chat")
        assert model.session().position == 0
