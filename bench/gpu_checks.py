"""Everything that a real NVIDIA GPU has to prove of the CUDA backend, as one table.

Needs the package with its test extra, NVRTC and, for its rows, compute-sanitizer. Takes a minute
and a half on 16 cores with pytest-xdist, most of it the compiler: kernels are compiled anew, into a
folder that is removed. Exit status 1 if a row failed.

usage: python bench/gpu_checks.py [--only TEXT] [--log FILE] [--result FILE]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from moeflux.backends import open_device

ROOT = Path(__file__).resolve().parent.parent
HEAD = "| check | result | seconds | said |\n| --- | --- | ---: | --- |\n"
SANITIZER_CASES = 12


@dataclass(frozen=True)
class Check:
    """A command, whose exit status is the result; `told`: the last such line is shown."""

    name: str
    command: list[str]
    told: str

    def run(self, environment: dict[str, str], log: TextIO) -> tuple[bool, float, str]:
        started = time.perf_counter()
        done = subprocess.run(
            self.command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - started
        log.write(f"=== {self.name}\n{done.stdout}\n")
        log.flush()
        lines = [line for line in done.stdout.splitlines() if re.search(self.told, line)]
        said = lines[-1].strip("= ") if lines else f"exit status {done.returncode}"
        return done.returncode == 0, seconds, said


def tests(*arguments: str) -> list[str]:
    """pytest, on many cores where pytest-xdist is there."""
    # Under xdist the plugin for benchmarks, where there is one, warns, and warnings are errors.
    workers = ["-n", str(min(12, os.cpu_count() or 1)), "-p", "no:benchmark"] if has_xdist() else []
    return [sys.executable, "-m", "pytest", "-q", *workers, *arguments]


def has_xdist() -> bool:
    return subprocess.run([sys.executable, "-c", "import xdist"], check=False).returncode == 0


def checks() -> list[Check]:
    python, bench = sys.executable, "bench"
    kernels = [python, f"{bench}/gpu_kernels.py"]
    found = [
        Check("every kernel test", tests("tests/ops", "-k", "cuda"), "passed|failed"),
        Check("kernels against their formulas", kernels, "router_top_k"),
        Check("models, bit identity", tests("-m", "cuda", "tests/cuda"), "passed|failed"),
        Check("error paths on the fake driver", tests("tests/cuda"), "passed|failed"),
        Check("no memory", [python, f"{bench}/gpu_faults.py", "memory"], "memory|Error"),
        Check("a kernel that faults", [python, f"{bench}/gpu_faults.py", "fault"], "Error"),
    ]
    sanitizer = shutil.which("compute-sanitizer") or "compute-sanitizer"
    for tool in ("memcheck", "racecheck", "initcheck", "synccheck"):
        command = [sanitizer, "--tool", tool, "--error-exitcode", "9", *kernels]
        command += ["--cases", str(SANITIZER_CASES)]
        found.append(Check(f"compute-sanitizer {tool}", command, "SUMMARY|rror"))
    return found


def machine() -> str:
    """GPU, driver and compiler."""
    return open_device("cuda").description


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", help="part of the checks' names")
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="what the checks print")
    parser.add_argument("--result", type=Path, help="write the table there")
    arguments = parser.parse_args()
    table = f"# CUDA backend, checked on {machine()}\n\n{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, "
    table += f"`python bench/gpu_checks.py`\n\n{HEAD}"
    print(table, end="", flush=True)
    failed = 0
    with tempfile.TemporaryDirectory() as folder, arguments.log.open("w") as log:
        environment = dict(os.environ) | {"MOEFLUX_KERNEL_FOLDER": folder}
        for check in checks():
            if arguments.only not in check.name:
                continue
            passed, seconds, said = check.run(environment, log)
            failed += not passed
            result = "ok" if passed else "**failed**"
            row = f"| {check.name} | {result} | {seconds:.0f} | {said} |\n"
            print(row, end="", flush=True)
            table += row
    if arguments.result:
        arguments.result.write_text(table)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
