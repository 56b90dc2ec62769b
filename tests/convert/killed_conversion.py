"""Converts a checkpoint in children that kill themselves at random calls, until one finishes.

    killed_conversion.py SOURCE DESTINATION SEED

Prints one line per child: "killed" or "finished", and whether the destination opened afterwards.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from typing import Any

from moeflux.checkpoint import Checkpoint
from moeflux.checkpoint.convert import convert
from moeflux.errors import CheckpointError

CALLS = ("pwrite", "fsync", "replace", "unlink", "mkdir", "close")
LONGEST_LIFE = 200


def main(source: str, destination: str, seed: int) -> None:
    generator = random.Random(seed)
    finished = False
    while not finished:
        n_calls = generator.randrange(1, LONGEST_LIFE)
        child = os.fork()
        if child == 0:
            _kill_at(n_calls)
            convert(source, destination, bits=4)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        finished = status == 0
        if not finished and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            sys.exit(f"child ended with status {status}")
        sys.stdout.write(f"{'finished' if finished else 'killed'} {_opens(destination)}\n")
        sys.stdout.flush()


def _kill_at(n_calls: int) -> None:
    """Kill this process in place of the system call number `n_calls` of those in CALLS."""
    left = n_calls

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def function(*arguments: Any, **keywords: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **keywords)

        return function

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))


def _opens(destination: str) -> bool:
    try:
        Checkpoint.open(destination)
    except CheckpointError:
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
