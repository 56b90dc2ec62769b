"""moeflux beside llama.cpp on one network: decode and prefill, alternating, everything in memory.

Makes the checkpoint and its GGUF twin if FOLDER has none, builds llama.cpp from the sdist of
llama-cpp-python if no llama-bench is named, then lets both engines take turns. Processor seconds
are compared too, for one thread: on a machine that others use, they tell more than the clock.
Prints medians, spread and ratios; the last line is JSON, which bench/plot_compare.py draws.
Needs the package gguf for the twin.

usage: python bench/compare.py FOLDER [--rounds 5] [--threads 2] [--prompt-tokens 512] [--tokens 64]
       [--llama-bench PROGRAM] [--activations float32|int8]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mid_checkpoint import RandomWeights, write_checkpoint

BENCH = Path(__file__).parent
OURS, PEER = "moeflux", "llama.cpp"


@dataclass(frozen=True)
class Sample:
    """One turn of one engine."""

    decode: float
    """Tokens per second."""
    prefill: float
    processor_seconds: float
    """User time of decode and prefill together, without loading."""


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


def build_peer(folder: Path) -> Path:
    """llama-bench with this processor's instructions, from the package index."""
    build = folder / "llama.cpp"
    program = build / "bin" / "llama-bench"
    if program.exists():
        return program
    sources = folder / "sources"
    sources.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*pip, "-d", sources, "llama-cpp-python"], check=True)
    with tarfile.open(next(sources.glob("llama_cpp_python-*.tar.gz"))) as archive:
        archive.extractall(sources, filter="data")
    root = next(sources.glob("llama_cpp_python-*/vendor/llama.cpp"))
    off = [
        f"-DLLAMA_{name}=OFF" for name in ("CURL", "BUILD_TESTS", "BUILD_EXAMPLES", "BUILD_SERVER")
    ]
    configure = ["cmake", "-S", root, "-B", build, "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON"]
    subprocess.run([*configure, *off], check=True)
    jobs = str(os.cpu_count() or 1)
    target = ["--target", "llama-bench", "-j", jobs]
    subprocess.run(["cmake", "--build", build, *target], check=True)
    return program


def run_ours(checkpoint: Path, arguments: argparse.Namespace, n_threads: int) -> Sample:
    command = [sys.executable, BENCH / "decode.py", checkpoint, "--device", "cpu"]
    command += ["--tokens", str(arguments.tokens), "--prompt-tokens", str(arguments.prompt_tokens)]
    command += ["--threads", str(n_threads), "--activations", arguments.activations]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return Sample(
        result["decode_tokens_per_second"],
        result["prefill_tokens_per_second"],
        result["processor_seconds"],
    )


def run_peer(program: Path, twin: Path, arguments: argparse.Namespace, n_threads: int) -> Sample:
    """One repetition; its processor seconds are what a second one adds."""
    sizes = ["-p", str(arguments.prompt_tokens), "-n", str(arguments.tokens)]
    command = [program, "-m", twin, *sizes, "-t", str(n_threads), "-o", "json"]
    seconds = []
    for repetitions in ("1", "2"):
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        done = subprocess.run(
            [*command, "-r", repetitions], check=True, capture_output=True, text=True
        )
        seconds.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    speeds = {"prefill" if row["n_prompt"] else "decode": max(row["samples_ts"]) for row in rows}
    return Sample(speeds["decode"], speeds["prefill"], seconds[1] - seconds[0])


def summary(samples: dict[str, list[Sample]], n_threads: int) -> list[dict[str, Any]]:
    """Medians, extremes and the ratio of medians; more is better in every ratio."""
    rows = []
    for quantity in ("decode", "prefill", "processor_seconds"):
        values = {name: [getattr(s, quantity) for s in taken] for name, taken in samples.items()}
        medians = {name: statistics.median(taken) for name, taken in values.items()}
        ratio = medians[OURS] / medians[PEER]
        rows.append(
            {
                "quantity": quantity,
                "threads": n_threads,
                "values": values,
                "medians": medians,
                "ratio": 1 / ratio if quantity == "processor_seconds" else ratio,
            }
        )
    return rows


def print_rows(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        columns = [f"{row['quantity']:18} {row['threads']} threads"]
        for name, values in row["values"].items():
            median = row["medians"][name]
            columns.append(f"{name} {median:8.2f} ({min(values):.2f} to {max(values):.2f})")
        print("  ".join([*columns, f"ratio {row['ratio']:.2f}"]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for the checkpoint, its twin and the peer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--activations", default="float32")
    parser.add_argument("--llama-bench", type=Path)
    arguments = parser.parse_args()
    checkpoint, twin = make_models(arguments.folder, arguments.layers, arguments.experts)
    program = arguments.llama_bench or build_peer(arguments.folder)
    rows = []
    for n_threads in sorted({1, arguments.threads}):
        samples: dict[str, list[Sample]] = {OURS: [], PEER: []}
        for _ in range(arguments.rounds):
            samples[OURS].append(run_ours(checkpoint, arguments, n_threads))
            samples[PEER].append(run_peer(program, twin, arguments, n_threads))
        rows += summary(samples, n_threads)
        print_rows(rows[-3:])
    print(
        json.dumps(
            {
                "date": datetime.now(UTC).date().isoformat(),
                "machine": platform.processor() or platform.machine(),
                "activations": arguments.activations,
                "prompt_tokens": arguments.prompt_tokens,
                "tokens": arguments.tokens,
                "rows": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
