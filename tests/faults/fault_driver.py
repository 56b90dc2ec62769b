"""Starts and talks to faulty processes, for the tests of this folder."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from faulty_process import Control, Fault

FOLDER = Path(__file__).parent
Reply = Mapping[str, Any]


def compile_shim(folder: Path) -> Path:
    """Build read_shim.c with the system's C compiler."""
    library = folder / "read_shim.so"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    source = str(FOLDER / "read_shim.c")
    subprocess.run(["cc", *flags, "-o", str(library), source, "-ldl"], check=True)
    return library


class FaultDriver:
    """A faulty process with one model loaded."""

    def __init__(self, shim: Path, folder: Path) -> None:
        control = folder / "read_faults"
        control.write_bytes(bytes(ctypes.sizeof(Control)))
        self._process = subprocess.Popen(
            [sys.executable, str(FOLDER / "faulty_process.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"LD_PRELOAD": str(shim), "READ_FAULTS": str(control)},
        )

    def load(
        self,
        folder: Path,
        *,
        n_slots: int,
        n_retries: int = 0,
        error_number: int = 0,
        **settings: object,
    ) -> Reply:
        """Load a checkpoint with so many slots; all reads fail with a number other than 0."""
        # What is not asked for must not make calls of its own, or the same call another read.
        settings = {"prefetch": "off", "read_mode": "page-cache", "verify": "off"} | settings
        return self._ask(
            "load",
            folder=str(folder),
            n_slots=n_slots,
            settings=settings | {"n_read_retries": n_retries},
            error_number=error_number,
        )

    def run(self, fault: Fault, first: int = 0, count: int = 1, error_number: int = 0) -> Reply:
        """Generate with a fault at `count` calls from `first` on, and again without."""
        return self._ask("run", fault=fault, first=first, count=count, error_number=error_number)

    def close_while_blocked(self, seconds: float) -> Reply:
        """Close the model while a read is under way that returns after so many seconds."""
        return self._ask("close_while_blocked", seconds=seconds)

    def stop(self) -> None:
        """End the process. Raises CalledProcessError if it did not end well."""
        self._process.communicate(timeout=60)
        if self._process.returncode:
            raise subprocess.CalledProcessError(self._process.returncode, self._process.args)

    def _ask(self, what: str, **arguments: object) -> Reply:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the process ended with {self._process.wait(timeout=60)}"
        reply: Reply = json.loads(line)
        return reply
