"""A process whose reads of weights fail as told: requests come in as lines of JSON, replies go out.

Runs with read_shim.c preloaded. `load` loads a model; `run` generates a few tokens greedily, with
a fault or without, and again after a reset; `close` closes the model.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from enum import IntEnum
from pathlib import Path
from typing import Any

import moeflux
import moeflux.engine.budget

PROMPT = [3, 141, 59, 26]
N_DECODED = 3


class Fault(IntEnum):
    """What a spoiled read does, in the order of read_shim.c."""

    NONE = 0
    ERROR = 1
    ONE_BYTE = 2
    HALF = 3
    END_OF_FILE = 4
    FLIPPED_BIT = 5
    STALE_BYTES = 6
    BLOCKED = 7


class Control(ctypes.Structure):
    """Shared with read_shim.c, which says what the fields mean."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("fault", "first", "count", "error_number", "n_calls", "n_fired")
    )

    @classmethod
    def mapped(cls, path: Path) -> Control:
        """The one in the file."""
        with path.open("r+b") as file:
            return cls.from_buffer(mmap.mmap(file.fileno(), ctypes.sizeof(cls)))

    def arm(self, fault: int, first: int, count: int, error_number: int) -> None:
        self.fault = Fault.NONE
        self.n_calls = self.n_fired = 0
        self.first, self.count, self.error_number = first, count, error_number
        self.fault = fault


class FaultyProcess:
    """What the requests do."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._model: moeflux.Model | None = None
        self._session: moeflux.Session | None = None

    def load(
        self,
        folder: str,
        n_slots: int,
        settings: dict[str, Any],
        error_number: int = 0,
    ) -> dict[str, object]:
        """Load a model, all reads failing with a number other than 0; tells the read mode."""
        self._control.arm(Fault.ERROR if error_number else Fault.NONE, 0, 1 << 32, error_number)
        chosen = moeflux.Settings(device="cpu", n_threads=1, **settings)
        with moeflux.load(folder, settings=chosen) as probe:
            needs = probe.memory_needs
        memory = needs.fixed_nbytes + n_slots * needs.slot_nbytes
        model = moeflux.load(folder, memory=memory, settings=chosen)
        stream = model.runtime.experts
        self._model, self._session = model, model.session(64)
        n_fired, self._control.fault = self._control.n_fired, Fault.NONE
        return asdict(stream.read_mode) | {"n_fired": n_fired}

    def run(
        self, fault: int, first: int = 0, count: int = 1, error_number: int = 0
    ) -> dict[str, object]:
        """Generate with a fault; then, with none, again."""
        self._forget_experts()
        self._control.arm(fault, first, count, error_number)
        reply = self._generate()
        reply |= {"n_calls": self._control.n_calls, "n_fired": self._control.n_fired}
        if fault == Fault.BLOCKED:
            self._session.reset()
            reply["while_blocked"] = self._generate()
        self._control.fault = Fault.NONE
        self._session.reset()
        return reply | {"after": self._generate()}

    def close_while_blocked(self, seconds: float) -> dict[str, object]:
        """Close with a read that returns after so many seconds."""
        self._forget_experts()
        self._control.arm(Fault.BLOCKED, 0, 1, 0)
        reply = self._generate()

        def release() -> None:
            self._control.fault = Fault.NONE

        threading.Timer(seconds, release).start()
        return reply | self.close()

    def close(self) -> dict[str, object]:
        started = time.perf_counter()
        self._model.close()
        return {"close_seconds": time.perf_counter() - started}

    def _forget_experts(self) -> None:
        """So that every run reads the same."""
        self._session.reset()
        self._model.runtime.experts.residency.pool.clear()

    def _generate(self) -> dict[str, object]:
        """Tokens and a digest of all logits, or the error."""
        session, started = self._session, time.perf_counter()
        reply: dict[str, object] = {"tokens": None, "logits": None, "error": None}
        try:
            rows = [session.prefill(PROMPT)]
            for _ in range(N_DECODED):
                rows.append(session.decode(int(rows[-1].argmax())))
        except moeflux.MoefluxError as error:
            reply["error"] = _described(error)
        else:
            reply["tokens"] = [int(row.argmax()) for row in rows]
            reply["logits"] = hashlib.sha256(b"".join(row.tobytes() for row in rows)).hexdigest()
        return reply | {"dirty": session.dirty, "seconds": time.perf_counter() - started}


def _described(error: BaseException) -> dict[str, object]:
    names = ("layer", "expert", "path", "offset", "wanted", "got", "errno")
    fields = {name: getattr(error, name, None) for name in names}
    kinds = {"type": type(error).__name__, "cause": type(error.__cause__).__name__}
    return kinds | fields | {"message": str(error)}


def main() -> None:
    moeflux.engine.budget.resident_memory = lambda: 0
    process = FaultyProcess(Control.mapped(Path(os.environ["READ_FAULTS"])))
    for line in sys.stdin:
        request = json.loads(line)
        answer: Callable[..., object] = getattr(process, request.pop("do"))
        sys.stdout.write(json.dumps(answer(**request)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
