"""Make the goldens of cases.py with transformers.

    PYTHONPATH=tests python tests/goldens/make_model_goldens.py [CASE ...]

Needs tests/oracle/requirements.txt and the package installed.
"""

from __future__ import annotations

import sys
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory

from goldens.cases import GoldenCase, digest, golden_cases, write
from oracle.decisive import decided
from oracle.dequantised import load_oracle

N_GREEDY = 16


def make(case: GoldenCase) -> None:
    """Write the golden of a case."""
    with TemporaryDirectory() as folder:
        checkpoint = write(case.model, Path(folder), case.layouts[0])
        oracle = load_oracle(checkpoint.path)
        prompts = decided(oracle, case.n_tokens, N_GREEDY, case.positions or range(case.n_tokens))
        # The calmest of them leaves most of the tolerance to the program that is tested.
        _, expected = min(prompts, key=itemgetter(0))
    expected.save(case.path, digest(checkpoint))


def main(names: list[str]) -> None:
    cases = {case.name: case for case in golden_cases()}
    for name in names or cases:
        make(cases[name])


if __name__ == "__main__":
    main(sys.argv[1:])
