"""read_header accepts what the safetensors format allows, and names file and tensor otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moeflux.checkpoint.json_file import MAX_NBYTES
from moeflux.checkpoint.safetensors import MAX_RANK, TensorEntry, read_header
from moeflux.errors import CheckpointError


def write_file(
    path: Path, header: object, data: bytes = b"", *, header_nbytes: int | None = None
) -> Path:
    """A file with this header (bytes, or else JSON), which claims to be header_nbytes long."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if header_nbytes is None else header_nbytes
    path.write_bytes(length.to_bytes(8, "little") + text + data)
    return path


def tensor(dtype: object, shape: object, offsets: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def refused(path: Path, *fragments: str) -> None:
    """The file is refused with an error that names it and says all of this."""
    with pytest.raises(CheckpointError) as refusal:
        read_header(path)
    for fragment in (str(path), *fragments):
        assert fragment in str(refusal.value)


def test_offsets_are_absolute_and_shapes_kept(path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "b": tensor("BF16", [2, 3], [4, 16]),
        "a": tensor("F32", [1], [0, 4]),
    }
    write_file(path, header, bytes(16))
    start = path.stat().st_size - 16
    assert read_header(path) == {
        "a": TensorEntry("a", "F32", (1,), path, start, 4),
        "b": TensorEntry("b", "BF16", (2, 3), path, start + 4, 12),
    }


def test_header_may_end_in_spaces(path: Path) -> None:
    text = json.dumps({"a": tensor("U8", [3], [0, 3])}).encode() + b" " * 7
    assert read_header(write_file(path, text, b"abc"))["a"].nbytes == 3


def test_scalar_and_empty_tensors_are_allowed(path: Path) -> None:
    header = {
        "empty": tensor("F32", [0, 5], [0, 0]),
        "scalar": tensor("F32", [], [0, 4]),
        "end": tensor("F16", [0], [4, 4]),
    }
    tensors = read_header(write_file(path, header, bytes(4)))
    assert {name: entry.nbytes for name, entry in tensors.items()} == {
        "empty": 0,
        "scalar": 4,
        "end": 0,
    }


def test_elements_smaller_than_a_byte_are_counted_in_bits(path: Path) -> None:
    write_file(path, {"a": tensor("F4", [6], [0, 3])}, bytes(3))
    assert read_header(path)["a"].nbytes == 3
    write_file(path, {"a": tensor("F4", [5], [0, 3])}, bytes(3))
    refused(path, "'a'", "20 bits")


def test_truncated_data_is_refused(path: Path) -> None:
    write_file(path, {"a": tensor("F32", [4], [0, 16])}, bytes(15))
    refused(path, "'a'", "16", "15")


def test_overlapping_tensors_are_refused(path: Path) -> None:
    header = {"a": tensor("U8", [4], [0, 4]), "b": tensor("U8", [4], [3, 7])}
    refused(write_file(path, header, bytes(7)), "'b'", "overlaps", "'a'")


def test_tensor_inside_another_is_refused(path: Path) -> None:
    header = {"a": tensor("U8", [8], [0, 8]), "b": tensor("U8", [0], [4, 4])}
    refused(write_file(path, header, bytes(8)), "'b'", "overlaps", "'a'")


def test_hole_between_tensors_is_refused(path: Path) -> None:
    header = {"a": tensor("U8", [4], [0, 4]), "b": tensor("U8", [4], [6, 10])}
    refused(write_file(path, header, bytes(10)), "'b'", "2 bytes", "'a'")


def test_hole_before_the_first_tensor_is_refused(path: Path) -> None:
    refused(
        write_file(path, {"a": tensor("U8", [4], [1, 5])}, bytes(5)), "'a'", "1 bytes", "header"
    )


def test_bytes_behind_the_last_tensor_are_refused(path: Path) -> None:
    refused(write_file(path, {"a": tensor("U8", [4], [0, 4])}, bytes(9)), "5 bytes behind", "'a'")


@pytest.mark.parametrize("n_bytes", [0, 7])
def test_file_shorter_than_a_length_is_refused(path: Path, n_bytes: int) -> None:
    path.write_bytes(bytes(n_bytes))
    refused(path, "at least 8 bytes", f"got {n_bytes}")


def test_header_longer_than_the_file_is_refused(path: Path) -> None:
    refused(write_file(path, {}, header_nbytes=3), "claims 3 bytes", "has 2")


def test_absurd_header_length_is_refused(path: Path) -> None:
    refused(write_file(path, {}, header_nbytes=2**64 - 1), f"claims {2**64 - 1} bytes")


def test_header_over_the_limit_is_refused_even_if_the_file_has_it(path: Path) -> None:
    with path.open("wb") as file:
        file.write((MAX_NBYTES + 1).to_bytes(8, "little"))
        file.truncate(MAX_NBYTES + 100)  # a sparse file
    refused(path, f"claims {MAX_NBYTES + 1} bytes", f"{MAX_NBYTES} is the limit")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b'{"a": }',
        b"\xff\xfe{}",
        b'{"a": "\xff"}',
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"a": ' + b"9" * 10_000 + b"}",
    ],
    ids=["empty", "cut", "no value", "UTF-16 mark", "not UTF-8", "absurd nesting", "huge integer"],
)
def test_invalid_json_is_refused(path: Path, text: bytes) -> None:
    refused(write_file(path, text))


@pytest.mark.parametrize("text", [b"[]", b"1", b' {"a": 1}'], ids=["list", "number", "space"])
def test_header_that_does_not_begin_with_an_object_is_refused(path: Path, text: bytes) -> None:
    refused(write_file(path, text), "begin with '{'")


def test_duplicate_tensor_is_refused(path: Path) -> None:
    entry = json.dumps(tensor("U8", [1], [0, 1]))
    refused(write_file(path, f'{{"a": {entry}, "a": {entry}}}'.encode(), b"1"), "'a'", "twice")


def test_duplicate_field_is_refused(path: Path) -> None:
    text = b'{"a": {"dtype": "U8", "shape": [1], "shape": [1], "data_offsets": [0, 1]}}'
    refused(write_file(path, text, b"1"), "'shape'", "twice")


@pytest.mark.parametrize(
    "shape",
    [[-1], [True], [1.0], ["1"], [None], None, {}, 1, [2**63], [1] * (MAX_RANK + 1)],
    ids=repr,
)
def test_shape_that_is_no_list_of_sizes_is_refused(path: Path, shape: object) -> None:
    refused(write_file(path, {"a": tensor("U8", shape, [0, 1])}, b"1"), "'a'", "shape")


@pytest.mark.parametrize("shape", [[2**62, 2**62], [2**40] * 3, [0, 2**62, 4]], ids=repr)
def test_shape_that_overflows_is_refused(path: Path, shape: list[int]) -> None:
    refused(write_file(path, {"a": tensor("U8", shape, [0, 0])}), "'a'", "overflows")


def test_huge_integer_in_a_shape_is_not_printed(path: Path) -> None:
    text = b'{"a": {"dtype": "U8", "shape": [' + b"9" * 4000 + b'], "data_offsets": [0, 1]}}'
    refused(write_file(path, text, b"1"), "'a'", "integer of 13288 bits")


@pytest.mark.parametrize(
    "offsets",
    [[-4, 0], [0], [0, 2, 4], [0, 4.0], [False, True], "04", None, [0, 2**64]],
    ids=repr,
)
def test_data_offsets_that_are_no_range_are_refused(path: Path, offsets: object) -> None:
    refused(write_file(path, {"a": tensor("F32", [1], offsets)}, bytes(4)), "'a'", "data_offsets")


def test_tensor_that_ends_before_it_begins_is_refused(path: Path) -> None:
    write_file(path, {"a": tensor("F32", [1], [4, 0])}, bytes(4))
    refused(path, "'a'", "data_offsets must be [begin, end], got [4, 0]")


@pytest.mark.parametrize(("dtype", "shape"), [("F32", [3]), ("BF16", [2, 2, 2]), ("U8", [])])
def test_length_other_than_dtype_and_shape_say_is_refused(
    path: Path, dtype: str, shape: list[int]
) -> None:
    refused(
        write_file(path, {"a": tensor(dtype, shape, [0, 8])}, bytes(8)), "'a'", dtype, "8 bytes"
    )


@pytest.mark.parametrize("dtype", ["F33", "f32", "", None, 32, ["F32"]], ids=repr)
def test_unknown_dtype_is_refused(path: Path, dtype: object) -> None:
    refused(write_file(path, {"a": tensor(dtype, [1], [0, 4])}, bytes(4)), "'a'", "dtype", "BF16")


@pytest.mark.parametrize("fields", [None, [], "F32", 1], ids=repr)
def test_tensor_that_is_no_object_is_refused(path: Path, fields: object) -> None:
    refused(write_file(path, {"a": fields}), "'a'", "wanted dtype, shape and data_offsets")


@pytest.mark.parametrize("field", ["dtype", "shape", "data_offsets"])
def test_missing_field_is_refused(path: Path, field: str) -> None:
    fields = tensor("U8", [1], [0, 1])
    del fields[field]
    refused(write_file(path, {"a": fields}, b"1"), "'a'", field)


@pytest.mark.parametrize("metadata", [[], "x", {"format": 1}, {"a": {"b": "c"}}], ids=repr)
def test_metadata_other_than_strings_is_refused(path: Path, metadata: object) -> None:
    refused(write_file(path, {"__metadata__": metadata}), "__metadata__")


def test_missing_file_is_refused(path: Path) -> None:
    refused(path, "cannot be read", "No such file")


def test_directory_is_refused(path: Path) -> None:
    path.mkdir()
    refused(path, "cannot be read", "directory")
