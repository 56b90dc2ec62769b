"""Rows of the embedding table."""

from __future__ import annotations

import struct

from moeflux._core import Buffer, Encoder
from moeflux.ops.checks import check_width
from moeflux.ops.operands import Activations, Matrix

_EMBEDDING = struct.Struct("=II")


def embed(encoder: Encoder, table: Matrix, tokens: Buffer, out: Activations) -> None:
    """Compute out[t] = table[tokens[t]] as float32.

    table: [V, D]; tokens: int32 [T]; out: [T, D]. A token outside of 0 .. V - 1 fails the
    command buffer on the CPU; a GPU gives it a row of NaN. Raises ValueError if out has another
    width.
    """
    check_width("out", out, table.cols)
    pipeline = encoder.device.pipeline("embedding", format=table.format.code)
    params = _EMBEDDING.pack(table.cols, table.rows)
    encoder.dispatch(pipeline, [*table.triple, tokens, out.buffer], params)
