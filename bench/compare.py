"""moeflux beside its peers on one network: decode and prefill, alternating, everything in memory.

Makes the checkpoint and its GGUF twin if FOLDER has none, builds llama.cpp from the sdist of
llama-cpp-python if no llama-bench is named, then lets the engines take turns. mlx-lm (on the same
checkpoint) and transformers (its shapes in bfloat16) join where --peer-python can import them, for
one short turn: they are slower by far. Processor seconds are compared too, for one thread: on a
machine that others use, they tell more than the clock. Prints medians, spread and ratios; the last
line is JSON, which bench/plot_compare.py draws. Needs the package gguf for the twin.

usage: python bench/compare.py FOLDER [--rounds 5] [--threads 1 2] [--prompt-tokens 512]
       [--tokens 64] [--llama-bench PROGRAM] [--peer-python PROGRAM]
       [--activations float32|int8]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compare_peers import Engine, LlamaCpp, Sample, Script, Turn, build_llama_bench
from mid_checkpoint import RandomWeights, write_checkpoint

OURS = "moeflux"
SHORT_PROMPT, SHORT_TOKENS = 16, 4
"""A turn of the slow peers."""


def make_models(folder: Path, n_layers: int, n_experts: int) -> tuple[Path, Path]:
    checkpoint, twin = folder / "checkpoint", folder / "twin.gguf"
    if not (checkpoint / "model.safetensors.index.json").exists():
        print(f"writing {checkpoint}", flush=True)
        write_checkpoint(checkpoint, RandomWeights(n_layers, n_experts))
    if not twin.exists():
        from gguf_twin import write_twin  # noqa: PLC0415 - needs the package gguf

        print(f"writing {twin}", flush=True)
        unfinished = twin.with_suffix(".unfinished")
        write_twin(unfinished, RandomWeights(n_layers, n_experts))
        unfinished.rename(twin)
    return checkpoint, twin


def slow_peers(checkpoint: Path, python: str) -> list[Engine]:
    """Those that the interpreter can import, the others named."""
    peers: list[Engine] = []
    for module, name, program in (
        ("mlx_lm", "mlx-lm", "mlx_speed.py"),
        ("transformers", "transformers", "transformers_speed.py"),
    ):
        found = subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False)
        if found.returncode == 0:
            peers.append(Script(name, program, checkpoint, python=python))
        else:
            print(f"{name} is left out: {python} does not import {module}", flush=True)
    return peers


def summary(samples: dict[str, list[Sample]], n_threads: int) -> list[dict[str, Any]]:
    """Medians, extremes and ours to each peer's; more is better in every ratio."""
    rows = []
    for quantity in ("decode", "prefill", "processor_seconds"):
        values = {name: [getattr(s, quantity) for s in taken] for name, taken in samples.items()}
        medians = {name: statistics.median(taken) for name, taken in values.items()}
        ratios = {name: medians[OURS] / other for name, other in medians.items() if name != OURS}
        if quantity == "processor_seconds":
            ratios = {name: 1 / ratio for name, ratio in ratios.items()}
        row = {"quantity": quantity, "threads": n_threads}
        rows.append(row | {"values": values, "medians": medians, "ratios": ratios})
    return rows


def print_rows(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        columns = [f"{row['quantity']:18} {row['threads']} threads"]
        for name, values in row["values"].items():
            spread = f"({min(values):.2f} to {max(values):.2f})"
            columns.append(f"{name} {row['medians'][name]:.2f} {spread}")
            if name in row["ratios"]:
                columns[-1] += f" ratio {row['ratios'][name]:.2f}"
        print("  ".join(columns), flush=True)


def compare(
    ours: Script, peers: list[Engine], slow: list[Engine], turn: Turn, n_rounds: int
) -> dict[str, Any]:
    """Rows of one number of threads, and our share of the memory's bandwidth in each round."""
    samples: dict[str, list[Sample]] = {engine.name: [] for engine in [ours, *peers]}
    shares = []
    for _ in range(n_rounds):
        for engine in [ours, *peers]:
            samples[engine.name].append(engine.run(turn))
        shares.append(ours.last["share_of_memory_bandwidth"])
    rows = summary(samples, turn.n_threads)
    if slow:
        short = replace(turn, prompt_tokens=SHORT_PROMPT, tokens=SHORT_TOKENS)
        taken = {engine.name: [engine.run(short)] for engine in [ours, *slow]}
        # Processor seconds of short turns are only comparable among themselves.
        short_rows = summary(taken, turn.n_threads)
        rows += [row | {"quantity": f"{row['quantity']}, short turn"} for row in short_rows]
    print_rows(rows)
    median = statistics.median(shares)
    print(f"share of the memory's read bandwidth in decode: {median:.2f}", flush=True)
    return {"rows": rows, "shares": shares}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for the checkpoint, its twin and the peer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--activations", default="float32")
    parser.add_argument("--llama-bench", type=Path)
    parser.add_argument("--peer-python", default=sys.executable)
    arguments = parser.parse_args()
    checkpoint, twin = make_models(arguments.folder, arguments.layers, arguments.experts)
    options = ("--device", "cpu", "--activations", arguments.activations)
    ours = Script(OURS, "decode.py", checkpoint, *options)
    program = arguments.llama_bench or build_llama_bench(arguments.folder)
    slow = slow_peers(checkpoint, arguments.peer_python)
    rows, shares = [], {}
    for n_threads in sorted(set(arguments.threads)):
        turn = Turn(arguments.prompt_tokens, arguments.tokens, n_threads)
        last = slow if n_threads == max(arguments.threads) else []
        found = compare(ours, [LlamaCpp(program, twin)], last, turn, arguments.rounds)
        rows += found["rows"]
        shares[n_threads] = found["shares"]
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": ours.last["device"],
        "activations": arguments.activations,
        "prompt_tokens": arguments.prompt_tokens,
        "tokens": arguments.tokens,
        "rows": rows,
        "shares_of_read_bandwidth": shares,
        "peak_memory_nbytes": ours.last["peak_memory_nbytes"],
        "checkpoint_nbytes": sum(f.stat().st_size for f in checkpoint.glob("*.safetensors")),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
