"""The model that ships, on a device: the tokens that it has to write, and its logits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moeflux.api import load
from moeflux.doctor.failures import EXPECTED, told
from moeflux.doctor.findings import Finding, Status
from moeflux.settings import Settings

PROMPT = "import os\nimport sys\n\n\ndef main():\n"
TOKENS = (
    *(258, 605, 4742, 291, 258, 1363, 285, 4742, 7548, 434, 258, 1363),
    *(1076, 3199, 2369, 85, 331, 4276, 3423, 331, 2545, 732, 3996, 5512),
)
"""What the demo model writes after the prompt; each leads by more than LEAST_LEAD."""
LEAST_LEAD = 0.3
LOGITS_TOLERANCE = 1e-4
"""Between two backends, of the largest logit."""
ADVICE = (
    "If kernels have problems above, start there; else attach this report to an issue, and run "
    "with --device cpu until it is understood."
)


@dataclass(frozen=True)
class _Answer:
    tokens: tuple[int, ...]
    logits: npt.NDArray[np.float32]
    """[tokens, vocabulary]"""
    tokens_per_second: float


def check_demo(device_name: str, settings: Settings) -> Iterator[Finding]:
    """Greedy tokens of the demo model, and its logits beside those of one thread of the CPU."""
    try:
        got = _answer(device_name, settings)
        wanted = _answer("cpu", replace(settings, n_threads=1))
    except EXPECTED as failure:
        yield Finding("model", "demo", Status.PROBLEM, told(failure), ADVICE)
        return
    n_right = next(
        (n for n, pair in enumerate(zip(got.tokens, TOKENS, strict=True)) if pair[0] != pair[1]),
        len(TOKENS),
    )
    right = n_right == len(TOKENS)
    said = f"{len(TOKENS)} tokens, {got.tokens_per_second:.3g} tok/s"
    if not right:
        said += f": token {n_right} should be {TOKENS[n_right]}, got {got.tokens[n_right]}"
    yield Finding(
        "model",
        "demo tokens",
        Status.OK if right else Status.PROBLEM,
        said,
        "" if right else ADVICE,
        {"tokens": list(got.tokens), "tokens_per_second": got.tokens_per_second},
    )
    yield _logits(got, wanted)


def _logits(got: _Answer, wanted: _Answer) -> Finding:
    distance = np.abs(got.logits.astype(np.float64) - wanted.logits).max()
    error = float(distance / np.abs(wanted.logits).max())
    said = f"{error:.1e} from those of one CPU thread (tolerance {LOGITS_TOLERANCE:.0e})"
    if error <= LOGITS_TOLERANCE:
        return Finding("model", "demo logits", Status.OK, said, values={"error": error})
    values = {"error": error if np.isfinite(error) else None}
    return Finding("model", "demo logits", Status.PROBLEM, said, ADVICE, values)


def _answer(device_name: str, settings: Settings) -> _Answer:
    """Follows TOKENS whatever the model would write, so that logits can be compared."""
    with load("demo", device_name, settings=settings) as model:
        prompt = model.encode_prompt(PROMPT)
        session = model.session(len(prompt) + len(TOKENS))
        logits = [session.prefill(prompt)]
        started = time.perf_counter()
        logits += [session.decode(token) for token in TOKENS[:-1]]
        seconds = time.perf_counter() - started
    rows = np.stack(logits)
    return _Answer(tuple(rows.argmax(axis=1).tolist()), rows, (len(TOKENS) - 1) / seconds)
