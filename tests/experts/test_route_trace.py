"""The route trace format: what is written is read, and what is damaged is named."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeflux.experts.trace import (
    TokenRoutes,
    TraceError,
    TraceHeader,
    TraceReader,
    TraceWriter,
    load,
)

HEADER = TraceHeader("qwen3_moe", n_layers=2, n_experts=300, top_k=3, record_nbytes=(640, 512))
WITH_PREDICTED = replace(HEADER, n_predicted=2)
FIRST = TokenRoutes(7, 0, 0, prefill=True, experts=((1, 299, 0), (5, 4)))
SECOND = TokenRoutes(7, 1, 1, prefill=False, experts=((2, 3, 4), ()))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "routes"


def write(path: Path, *tokens: TokenRoutes, header: TraceHeader = HEADER) -> None:
    with TraceWriter(path, header) as writer:
        for token in tokens:
            writer.write(token)


def read_until_error(path: Path) -> tuple[list[TokenRoutes], str]:
    tokens = []
    with TraceReader(path) as reader, pytest.raises(TraceError) as caught:
        tokens.extend(_taken(reader, tokens))
    return tokens, str(caught.value)


def _taken(reader: TraceReader, tokens: list[TokenRoutes]) -> list[TokenRoutes]:
    for token in reader:
        tokens.append(token)  # noqa: PERF402  (kept when the next one raises)
    return []


def test_tokens_are_read_as_written(path: Path) -> None:
    write(path, FIRST, SECOND)
    trace = load(path)
    assert trace.header == HEADER
    assert trace.tokens == (FIRST, SECOND)


def test_predicted_experts_are_read_as_written(path: Path) -> None:
    token = replace(FIRST, predicted=((), (9, 299)))
    write(path, token, header=WITH_PREDICTED)
    assert load(path).tokens == (token,)


def test_the_bytes_are_those_of_the_documented_format(path: Path) -> None:
    write(path, FIRST)
    line, _, record = path.read_bytes().partition(b"\n")
    assert json.loads(line) == {
        "format": "moeflux route trace",
        "version": 1,
        "model_type": "qwen3_moe",
        "n_layers": 2,
        "n_experts": 300,
        "top_k": 3,
        "record_nbytes": [640, 512],
        "n_predicted": 0,
    }
    body = struct.pack("<IIII6H", 7, 0, 0, 1, 1, 299, 0, 5, 4, 65535)
    assert record == body + struct.pack("<I", zlib.crc32(body))


def test_writing_goes_on_where_it_stopped(path: Path) -> None:
    write(path, FIRST)
    write(path, SECOND)
    assert load(path).tokens == (FIRST, SECOND)


def test_every_token_is_in_the_file_once_written(path: Path) -> None:
    with TraceWriter(path, HEADER) as writer:
        writer.write(FIRST)
        assert load(path).tokens == (FIRST,)


def test_writing_after_a_crash_drops_the_record_that_was_cut_short(path: Path) -> None:
    write(path, FIRST, SECOND)
    path.write_bytes(path.read_bytes()[:-5])
    write(path, SECOND)
    assert load(path).tokens == (FIRST, SECOND)


def test_appending_to_the_trace_of_another_model_is_refused(path: Path) -> None:
    write(path, FIRST)
    before = path.read_bytes()
    with pytest.raises(TraceError, match=r"is a trace of .*top_k=3.*, wanted .*top_k=2"):
        TraceWriter(path, replace(HEADER, top_k=2))
    assert path.read_bytes() == before


def test_appending_to_a_file_that_is_no_trace_is_refused(path: Path) -> None:
    path.write_bytes(b"something else\n")
    with pytest.raises(TraceError, match="is not a moeflux route trace"):
        TraceWriter(path, HEADER)
    assert path.read_bytes() == b"something else\n"


@pytest.mark.parametrize(
    ("experts", "message"),
    [
        (((1,),), "must have 2 layers of at most 3 experts"),
        (((1, 2, 3, 4), ()), "must have 2 layers of at most 3 experts"),
        (((300,), ()), "experts must be from 0 to 299"),
        (((-1,), ()), "experts must be from 0 to 299"),
    ],
)
def test_routes_that_do_not_fit_the_header_are_refused(
    path: Path, experts: tuple[tuple[int, ...], ...], message: str
) -> None:
    with TraceWriter(path, HEADER) as writer, pytest.raises(ValueError, match=message):
        writer.write(replace(FIRST, experts=experts))
    assert load(path).tokens == ()


def test_a_record_cut_short_is_an_error_after_the_whole_ones(path: Path) -> None:
    write(path, FIRST, SECOND)
    path.write_bytes(path.read_bytes()[:-1])
    tokens, message = read_until_error(path)
    assert tokens == [FIRST]
    assert message == f"{path}: record 1 has 31 bytes, wanted 32"


def test_an_altered_record_is_an_error(path: Path) -> None:
    write(path, FIRST, SECOND)
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)
    tokens, message = read_until_error(path)
    assert tokens == [FIRST]
    assert "record 1 has CRC" in message


def test_an_expert_that_the_model_does_not_have_is_an_error(path: Path) -> None:
    write(path)
    body = struct.pack("<IIII6H", 0, 0, 0, 0, 300, 0, 0, 0, 0, 0)
    path.write_bytes(path.read_bytes() + body + struct.pack("<I", zlib.crc32(body)))
    assert "record 0 has a kind or an expert" in read_until_error(path)[1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "is not a moeflux route trace"),
        (b"\x00\xff\x13\n", "is not a moeflux route trace"),
        (b"[" * 200_000 + b"\n", "is not a moeflux route trace"),
        (b"{" + b" " * (2 << 20) + b"}\n", "is not a moeflux route trace"),
        (b'{"format": "moeflux route trace", "version": 1}', "is not a moeflux route trace"),
        (b'{"format": "moeflux route trace", "version": 2}\n', "has version 2, wanted 1"),
        (b'{"format": "moeflux route trace", "version": 1}\n', "has a bad header"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(path: Path, line: bytes, message: str) -> None:
    path.write_bytes(line)
    with pytest.raises(TraceError, match=message):
        TraceReader(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", 3),
        ("n_layers", 0),
        ("n_layers", 10**9),
        ("n_layers", 2.0),
        ("n_experts", 10**6),
        ("n_experts", "300"),
        ("top_k", 301),
        ("n_predicted", -1),
        ("record_nbytes", [640]),
        ("record_nbytes", [640, 0]),
        ("record_nbytes", None),
        ("surplus", 1),
    ],
)
def test_a_header_with_sizes_that_no_model_has_is_refused(
    path: Path, field: str, value: object
) -> None:
    write(path)
    fields = json.loads(path.read_bytes())
    path.write_bytes(json.dumps({**fields, field: value}).encode() + b"\n")
    with pytest.raises(TraceError, match="has a bad header"):
        TraceReader(path)


def test_a_compressed_trace_is_read(path: Path) -> None:
    write(path, FIRST, SECOND)
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert load(path).tokens == (FIRST, SECOND)


def test_a_compressed_trace_cut_short_is_an_error(path: Path) -> None:
    write(path, *[SECOND] * 50)
    path.write_bytes(gzip.compress(path.read_bytes())[:-12])
    with pytest.raises(TraceError, match="damaged gzip stream"):
        load(path)


def test_a_trace_with_more_tokens_than_allowed_is_an_error(path: Path) -> None:
    write(path, FIRST, SECOND)
    with pytest.raises(TraceError, match="has more than 1 tokens"):
        load(path, max_tokens=1)


@given(data=st.binary(max_size=200))
@settings(max_examples=100, deadline=None, database=None, derandomize=True)
def test_no_bytes_make_the_reader_fail_in_another_way(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    for content in (data, b"\x1f\x8b\x08" + data):
        path.write_bytes(content)
        with pytest.raises(TraceError):
            load(path)


@given(st.data())
@settings(max_examples=100, deadline=None, database=None, derandomize=True)
def test_any_routes_are_read_as_written(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    row = st.lists(st.integers(0, 299), max_size=3).map(tuple)
    rows = st.tuples(row, row)
    ids = st.integers(0, 2**32 - 1)
    tokens = data.draw(st.lists(st.builds(TokenRoutes, ids, ids, ids, st.booleans(), rows)))
    path = tmp_path_factory.getbasetemp() / "some"
    path.unlink(missing_ok=True)
    write(path, *tokens)
    assert load(path).tokens == tuple(tokens)
