"""Prompts that begin alike, through a prefix folder that other processes use too.

    prefix_process.py CHECKPOINT FOLDER NBYTES SEED N_PROMPTS [N_CHILDREN]

Compares every prompt with a straight run, bit by bit. Prints how many were resumed and how many
times the folder failed. With children, they do it, and kill themselves at random calls: it prints
for each "killed" or "finished", and how many bytes the folder then has.
"""

from __future__ import annotations

import os
import random
import sys

import numpy as np
from killing import kill_at, was_killed

import moeflux

CALLS = ("open", "ftruncate", "pwrite", "replace", "unlink", "close", "preadv", "utime", "scandir")
LONGEST_LIFE = 250


def main(
    checkpoint: str, folder: str, nbytes: str, seed: int, n_prompts: int, n_calls: int = 0
) -> None:
    generator = random.Random(seed)
    chosen = moeflux.Settings(prefix_folder=folder, prefix_disk=nbytes, context_size=512)
    with moeflux.load(checkpoint, device="cpu", settings=chosen) as model:
        store = model.prefixes
        assert store is not None
        if n_calls:
            kill_at(n_calls, CALLS)
        for _ in range(n_prompts):
            blocks = generator.choices((3, 5, 7), k=generator.randrange(1, 5))
            prompt = [3 + (step * n) % 250 for step in blocks for n in range(64)] + [9]
            session, straight = model.session(), model.session()
            done = store.resume(session, prompt)
            for end in store.boundaries(prompt, [64, 128]):
                if end > done:
                    session.prefill(prompt[done:end])
                    store.keep(session)
                    done = end
            got, wanted = session.prefill(prompt[done:]), straight.prefill(prompt)
            if not np.array_equal(got.view(np.uint32), wanted.view(np.uint32)):
                sys.exit(f"prompt {blocks} has other bits")
        if not n_calls:
            sys.stdout.write(f"{store.counts.n_resumed} {store.counts.n_failed}\n")


def run_children(
    checkpoint: str, folder: str, nbytes: str, seed: int, n_prompts: int, n_children: int
) -> None:
    generator = random.Random(seed)
    for n in range(n_children):
        n_calls = generator.randrange(1, LONGEST_LIFE)
        child = os.fork()
        if child == 0:
            main(checkpoint, folder, nbytes, n, n_prompts, n_calls)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        how = "killed" if was_killed(status) else "finished"
        size = sum(entry.stat().st_size for entry in os.scandir(folder))
        sys.stdout.write(f"{how} {size}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    arguments = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    if len(sys.argv) > 6:
        run_children(*arguments, int(sys.argv[6]))
    else:
        main(*arguments)
