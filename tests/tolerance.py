"""The one table of tolerances: how far a kernel's float32 result may be from the float64 reference.

Weights of every dtype are widened exactly and all arithmetic is float32, so that the dtype of the
weights does not matter to a correct kernel.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moeflux.quant import Dtype

# Of the largest magnitude of the reference.
RELATIVE = {Dtype.FLOAT32: 1e-5, Dtype.FLOAT16: 1e-5, Dtype.BFLOAT16: 1e-5}


def assert_close(
    got: npt.NDArray[np.generic],
    wanted: npt.NDArray[np.generic],
    dtype: Dtype = Dtype.FLOAT32,
) -> None:
    """Fail if any value is further from `wanted` than the table allows for weights of `dtype`."""
    assert got.shape == wanted.shape
    largest = np.abs(wanted).max()
    distance = np.abs(got.astype(np.float64) - wanted)
    assert np.all(distance <= RELATIVE[dtype] * largest), (
        f"distance {distance.max():.3g} at {np.unravel_index(distance.argmax(), distance.shape)} "
        f"where values reach {largest:.3g}"
    )
