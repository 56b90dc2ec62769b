"""Verification finds every altered, missing or added byte, and says where it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conversion_sources import N_EXPERTS, N_LAYERS, Sources
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_files import headers

from moeflux.checkpoint.convert import convert
from moeflux.checkpoint.verify import DamagedPart, verify
from moeflux.errors import CheckpointError


@pytest.fixture(scope="module")
def whole(source_folder: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "packed"
    convert(source_folder("mlx"), folder)
    return folder


@pytest.fixture
def packed(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "packed"))


def flip(path: Path, offset: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def only(parts: tuple[DamagedPart, ...]) -> DamagedPart:
    (part,) = parts
    return part


def test_a_whole_checkpoint_has_no_damaged_part(whole: Path) -> None:
    result = verify(whole)
    assert result.has_checksums
    assert result.damaged == ()
    assert result.n_records == N_LAYERS * N_EXPERTS


def test_all_bytes_but_those_of_the_manifest_are_read(whole: Path) -> None:
    files = [path for path in whole.rglob("*") if path.is_file() and path.name != "moeflux.json"]
    assert verify(whole).nbytes == sum(path.stat().st_size for path in files)


def test_a_flipped_bit_is_found_in_its_record(packed: Path) -> None:
    path = packed / "experts" / "layer_02.bin"
    record_nbytes = path.stat().st_size // N_EXPERTS
    flip(path, 5 * record_nbytes + 1234)
    part = only(verify(packed).damaged)
    assert (part.layer, part.expert) == (2, 5)
    assert (part.path, part.offset, part.nbytes) == (path, 5 * record_nbytes, record_nbytes)
    assert "layer 2 expert 5: wanted checksum" in str(part)


def test_a_truncated_record_is_found_with_those_behind_it(packed: Path) -> None:
    path = packed / "experts" / "layer_01.bin"
    record_nbytes = path.stat().st_size // N_EXPERTS
    with path.open("r+b") as file:
        file.truncate(6 * record_nbytes + 1)
    damaged = verify(packed).damaged
    assert [(part.layer, part.expert) for part in damaged] == [(1, 6), (1, 7)]
    assert "the file ends" in damaged[0].reason


def test_a_missing_file_is_found(packed: Path) -> None:
    (packed / "experts" / "layer_03.bin").unlink()
    damaged = verify(packed).damaged
    assert [(part.layer, part.expert) for part in damaged] == [(3, n) for n in range(N_EXPERTS)]
    assert "No such file" in damaged[0].reason


def test_bytes_behind_the_end_are_found(packed: Path) -> None:
    path = packed / "experts" / "layer_00.bin"
    nbytes = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"more")
    part = only(verify(packed).damaged)
    assert (part.path, part.offset, part.nbytes) == (path, nbytes, 4)


def test_an_altered_tensor_is_named(packed: Path) -> None:
    path = packed / "dense.safetensors"
    name = "language_model.model.layers.1.mlp.gate.weight"
    begin = headers(path)[name][2]
    flip(path, begin + 3)
    part = only(verify(packed).damaged)
    assert part.what == f"tensor {name}"
    assert part.offset == begin


def test_an_altered_header_is_found(packed: Path) -> None:
    path = packed / "dense.safetensors"
    header = path.read_bytes()[: int.from_bytes(path.read_bytes()[:8], "little")]
    flip(path, header.index(b'"mlx"') + 1)
    assert only(verify(packed).damaged).what == "header of dense.safetensors"


def test_a_header_that_cannot_be_read_is_found(packed: Path) -> None:
    flip(packed / "dense.safetensors", 7, bit=6)
    part = only(verify(packed).damaged)
    assert part.what == "header of dense.safetensors"
    assert "the header claims" in part.reason


def test_an_altered_configuration_is_found(packed: Path) -> None:
    flip(packed / "tokenizer.json", 20)
    assert only(verify(packed).damaged).what == "tokenizer.json"


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_found(whole: Path, data: st.DataObject) -> None:
    files = sorted(path for path in whole.rglob("*") if path.name not in {"moeflux.json"})
    path = data.draw(st.sampled_from([path for path in files if path.is_file()]))
    offset = data.draw(st.integers(0, path.stat().st_size - 1))
    bit = data.draw(st.integers(0, 7))
    flip(path, offset, bit)
    try:
        assert verify(whole).damaged != ()
    finally:
        flip(path, offset, bit)


@pytest.mark.parametrize("name", ["mlx", "hf", "flash-moe"])
def test_a_checkpoint_without_checksums_is_said_to_have_none(
    name: str, source_folder: Sources
) -> None:
    result = verify(source_folder(name))
    assert not result.has_checksums
    assert (result.nbytes, result.damaged) == (0, ())
    assert result.n_records == N_LAYERS * N_EXPERTS


def test_a_truncated_shard_without_checksums_is_refused(
    source_folder: Sources, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(source_folder("mlx"), tmp_path / "source"))
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        verify(folder)
