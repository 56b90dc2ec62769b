"""Whatever a file holds: read_header gives tensors inside of it, or raises CheckpointError."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from moeflux.checkpoint.safetensors import DTYPE_BITS, read_header
from moeflux.errors import CheckpointError

HEADER = {
    "__metadata__": {"format": "mlx"},
    "layers.0.weight": {"dtype": "U32", "shape": [2, 2], "data_offsets": [0, 16]},
    "layers.0.scales": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [16, 20]},
    "layers.0.empty": {"dtype": "F32", "shape": [0], "data_offsets": [20, 20]},
    "layers.0.biases": {"dtype": "F16", "shape": [2, 1], "data_offsets": [20, 24]},
}
TEXT = json.dumps(HEADER).encode()
VALID = len(TEXT).to_bytes(8, "little") + TEXT + bytes(24)
INTERESTING = b'0123456789-+.eE{}[]",: \\\x00\xff'

Mutation = tuple[str, int, int]


def _mutated(content: bytes, mutations: list[Mutation]) -> bytes:
    changed = bytearray(content)
    for kind, position, byte in mutations:
        at = position % (len(changed) + 1)
        if kind == "insert":
            changed.insert(at, byte)
        elif kind == "delete":
            del changed[at : at + 1]
        elif kind == "cut":
            del changed[at:]
        else:
            changed[at : at + 1] = bytes([byte])
    return bytes(changed)


mutations = st.lists(
    st.tuples(
        st.sampled_from(["insert", "delete", "replace", "replace", "cut"]),
        st.integers(0, len(VALID)),
        st.one_of(st.sampled_from(list(INTERESTING)), st.integers(0, 255)),
    ),
    max_size=6,
)
sizes = st.one_of(st.integers(0, 40), st.integers(-5, 2**70), st.booleans(), st.none())
json_values = st.recursive(
    st.one_of(sizes, st.floats(), st.sampled_from([*DTYPE_BITS, "", "F99"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner)
    ),
    max_leaves=6,
)
tensors = st.fixed_dictionaries(
    {
        "dtype": st.one_of(st.sampled_from(list(DTYPE_BITS)), json_values),
        "shape": st.one_of(st.lists(sizes, max_size=3), json_values),
        "data_offsets": st.one_of(
            st.lists(st.integers(0, 30), min_size=2, max_size=2), json_values
        ),
    }
)


def _check(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(content)
        try:
            found = read_header(path)
        except CheckpointError:
            return
    end = 8 + int.from_bytes(content[:8], "little")
    for entry in sorted(found.values(), key=lambda entry: (entry.offset, entry.nbytes)):
        assert entry.offset == end
        end += entry.nbytes
        n_bits = DTYPE_BITS[entry.dtype]
        for size in entry.shape:
            assert size >= 0
            n_bits *= size
        assert n_bits == 8 * entry.nbytes
    assert end == len(content)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(mutations)
def test_mutated_file_is_in_bounds_or_refused(changes: list[Mutation]) -> None:
    _check(_mutated(VALID, changes))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(mutations)
def test_mutated_header_of_true_length_is_in_bounds_or_refused(changes: list[Mutation]) -> None:
    text = _mutated(TEXT, changes)
    _check(len(text).to_bytes(8, "little") + text + bytes(24))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.dictionaries(st.text(max_size=3), st.one_of(tensors, json_values), max_size=3),
    st.integers(0, 30),
)
def test_any_json_header_is_in_bounds_or_refused(header: dict[str, object], n_bytes: int) -> None:
    text = json.dumps(header).encode()
    _check(len(text).to_bytes(8, "little") + text + bytes(n_bytes))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=64))
def test_random_bytes_are_in_bounds_or_refused(content: bytes) -> None:
    _check(content)
