"""How the authors of a checkpoint want tokens drawn, unless a request says otherwise."""

from __future__ import annotations

import math
from pathlib import Path

from moeflux.checkpoint.json_file import read_object
from moeflux.engine.request import SamplingOptions

_FILE = "generation_config.json"


def generation_defaults(folder: Path) -> SamplingOptions:
    """Of the checkpoint's generation_config.json; greedy where it says do_sample false.

    Without the file or a value, tokens are drawn at temperature 1 from all of them.
    Raises CheckpointError for a file that is not JSON.
    """
    path = folder / _FILE
    values = read_object(path) if path.exists() else {}
    defaults = SamplingOptions(
        temperature=_number(values.get("temperature"), 0, math.inf, 1.0),
        top_p=_number(values.get("top_p"), 1e-6, 1, 1.0),
        min_p=_number(values.get("min_p"), 0, 1, 0.0),
        repetition_penalty=_number(values.get("repetition_penalty"), 1e-2, 1e2, 1.0),
        top_k=int(_number(values.get("top_k"), 0, 2**31, 0)),
    )
    if values.get("do_sample") is False:
        defaults["temperature"] = 0.0
    return defaults


def _number(value: object, least: float, most: float, default: float) -> float:
    """The value if it is a number within the bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return default
    return value if least <= value <= most and math.isfinite(value) else default
