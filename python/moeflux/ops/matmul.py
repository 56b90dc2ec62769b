"""Products of activations with weight matrices."""

from __future__ import annotations

import struct

from moeflux._core import Encoder
from moeflux.ops.checks import check_width
from moeflux.ops.operands import Activations, Matrix

_MATMUL = struct.Struct("=IIII")
_GATE_UP = struct.Struct("=II")


def matmul(
    encoder: Encoder,
    weight: Matrix,
    x: Activations,
    out: Activations,
    *,
    accumulate: bool = False,
) -> None:
    """Compute out[t] = weight x[t], added to out[t] with `accumulate`.

    weight: [rows, cols]; x: [T, cols]; out: [T, rows]. Raises ValueError if the widths do not fit.
    """
    check_width("x", x, weight.cols)
    check_width("out", out, weight.rows)
    pipeline = encoder.device.pipeline(
        "matmul", format=weight.format.code, accumulate=int(accumulate)
    )
    params = _MATMUL.pack(weight.rows, weight.cols, x.width, out.width)
    encoder.dispatch(pipeline, [*weight.triple, x.buffer, out.buffer], params)


def gate_up(
    encoder: Encoder, gate_proj: Matrix, up_proj: Matrix, x: Activations, out: Activations
) -> None:
    """Compute out[t] = silu(gate_proj x[t]) * (up_proj x[t]) (Shazeer, GLU Variants).

    gate_proj, up_proj: [F, D], of any formats; x: [T, D]; out: [T, F].
    Raises ValueError if the shapes do not fit.
    """
    wanted = (gate_proj.rows, gate_proj.cols)
    if (up_proj.rows, up_proj.cols) != wanted:
        raise ValueError(
            f"up_proj needs the shape of gate_proj {list(wanted)}, "
            f"got [{up_proj.rows}, {up_proj.cols}]"
        )
    check_width("x", x, gate_proj.cols)
    check_width("out", out, gate_proj.rows)
    pipeline = encoder.device.pipeline(
        "gate_up", gate_format=gate_proj.format.code, up_format=up_proj.format.code
    )
    params = _GATE_UP.pack(gate_proj.rows, gate_proj.cols)
    buffers = [*gate_proj.triple, *up_proj.triple, x.buffer, out.buffer]
    encoder.dispatch(pipeline, buffers, params)
