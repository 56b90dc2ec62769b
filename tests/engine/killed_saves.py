"""Saves sessions to one path in children that kill themselves at random calls.

    killed_saves.py CHECKPOINT PATH SEED N_CHILDREN

Child n saves n + 1 tokens. Prints one line per child: "killed" or "finished", and how many tokens
the file at the path restores to.
"""

from __future__ import annotations

import os
import random
import sys

from killing import kill_at, was_killed

import moeflux

CALLS = ("open", "ftruncate", "pwrite", "fsync", "replace", "close")
LONGEST_LIFE = 24


def main(checkpoint: str, path: str, seed: int, n_children: int) -> None:
    generator = random.Random(seed)
    for n in range(n_children):
        n_calls = generator.randrange(1, LONGEST_LIFE)
        child = os.fork()
        if child == 0:
            _save(checkpoint, path, n + 1, n_calls)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        how = "killed" if was_killed(status) else "finished"
        sys.stdout.write(f"{how} {_restored(checkpoint, path)}\n")
        sys.stdout.flush()


def _save(checkpoint: str, path: str, n_tokens: int, n_calls: int) -> None:
    with moeflux.load(checkpoint, device="cpu") as model:
        session = model.session(256)
        session.prefill([3] * n_tokens)
        kill_at(n_calls, CALLS)
        session.save(path)


def _restored(checkpoint: str, path: str) -> int:
    """In a child, since a process that has loaded a model is not to be forked."""
    child = os.fork()
    if child == 0:
        with moeflux.load(checkpoint, device="cpu") as model:
            n_tokens = model.restore(path).position if os.path.exists(path) else 0  # noqa: PTH110
        os._exit(n_tokens)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
