"""Reads of weights that fail while a server runs, for bench/server_soak.py. Linux only.

A packed copy of the model, every record compared with its checksum, under a cap that leaves room
for few experts: so that a spoiled read is seen or retried, and reads go on all the time.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import re
import subprocess
import sys
import time
from errno import EAGAIN, EINTR, EIO
from pathlib import Path

import moeflux
from moeflux.hub import resolve

sys.path.append(str(Path(__file__).parents[1] / "tests" / "faults"))

from fault_driver import compile_shim
from faulty_process import Control, Fault

FAULTS: tuple[tuple[Fault, int], ...] = (
    *((Fault.ERROR, number) for number in (EIO, EINTR, EAGAIN)),
    *((fault, 0) for fault in Fault if fault not in (Fault.NONE, Fault.ERROR)),
)
TOLD = re.compile(r"layer \d+ expert \d+")
"""In the error of a request whose read failed, retried or not."""
ROOM_NBYTES = 2_000_000
"""For experts, above the least that the model needs: about 50 of the demo model's 256."""


class ReadFaults:
    """Spoils reads of a process that has `environment`, a few at a time, for as long as asked."""

    def __init__(self, model: str, folder: Path, seed: int) -> None:
        """`folder` is for the packed copy and for what the processes share."""
        self.model = folder / "packed"
        moeflux.convert(resolve(model), self.model)
        self._control_path = folder / "read_faults"
        self._control_path.write_bytes(bytes(ctypes.sizeof(Control)))
        self._control = Control.mapped(self._control_path)
        self._shim = compile_shim(folder)
        self._random = random.Random(seed)
        self.n_fired = 0
        """Reads that were spoiled."""

    @property
    def environment(self) -> dict[str, str]:
        """Of the process whose reads fail."""
        ours = {"LD_PRELOAD": str(self._shim), "READ_FAULTS": str(self._control_path)}
        return dict(os.environ) | ours | {"MOEFLUX_VERIFY": "always"}

    def memory_options(self) -> list[str]:
        """Options of `moeflux serve` with a cap that leaves room for few experts."""
        command = [sys.executable, "-m", "moeflux.cli", "serve", str(self.model)]
        prefixes = ["--prefix-memory", "2MB"]
        asked = [*command, *prefixes, "--memory", "50MB"]
        refused = subprocess.run(
            asked, env=self.environment, capture_output=True, text=True, check=False
        )
        found = re.search(r"is below the ([\d.]+) MB", refused.stderr)
        if found is None:
            raise SystemExit(f"a cap of 50 MB was not refused: {refused.stderr}")
        cap = int(float(found[1]) * 1e6) + 500_000 + ROOM_NBYTES  # sizes are told to three digits
        return [*prefixes, "--memory", str(cap)]

    async def rage(self, until: float) -> None:
        """Spoil a few reads in a row, again and again; then none."""
        try:
            while time.monotonic() < until:
                fault, number = self._random.choice(FAULTS)
                first, count = self._random.randrange(50), self._random.choice((1, 1, 2, 4, 16))
                self._control.arm(fault, first, count, number)
                # A read that returns nothing is let go on after this.
                await asyncio.sleep(self._random.uniform(0.05, 0.5))
                self.n_fired += self._control.n_fired
        finally:
            self._control.arm(Fault.NONE, 0, 0, 0)
