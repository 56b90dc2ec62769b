"""Every kernel of the GPU once or a few times against its formula: what compute-sanitizer runs.

usage: python bench/gpu_kernels.py [--cases N]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from itertools import islice

from moeflux.backends import open_device
from moeflux.doctor.cases import Case
from moeflux.doctor.findings import Status
from moeflux.doctor.kernel_checks import CASES, check_kernels


def spread(cases: Callable[[], Iterator[Case]], count: int) -> Callable[[], Iterator[Case]]:
    """At most so many of the cases, from the first to the last."""
    n_cases = sum(1 for _ in cases())
    return lambda: islice(cases(), 0, None, max(1, -(-n_cases // count)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", type=int, default=1000, help="of each kernel, at most")
    arguments = parser.parse_args()
    cases = {kernel: spread(made, arguments.cases) for kernel, made in CASES.items()}
    wrong = 0
    for finding in check_kernels(open_device("cuda"), cases):
        wrong += finding.status is not Status.OK
        print(f"{finding.status.name.lower():8} {finding.name:24} {finding.said}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
