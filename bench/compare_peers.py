"""The engines that bench/compare.py measures moeflux against, each in a process of its own."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

BENCH = Path(__file__).parent

TILE_CONFIGURATION = """#include <immintrin.h>
#define _tile_loadconfig(from) __asm__ volatile("ldtilecfg %0" ::"m"(*(const char(*)[64])(from)))
"""
"""GCC before 12.4 and 13.3 drops stores to what _tile_loadconfig reads (GCC bug 114098), and
programs that use AMX die of an illegal instruction."""


@dataclass(frozen=True)
class Sample:
    """One turn of one engine."""

    decode: float
    """Tokens per second."""
    prefill: float
    processor_seconds: float
    """User time of decode and prefill together, without loading."""


@dataclass(frozen=True)
class Turn:
    """What every engine does in its turn."""

    prompt_tokens: int
    tokens: int
    n_threads: int


class Engine(Protocol):
    """One engine with the network loaded in a process that ends with its turn."""

    name: str

    def run(self, turn: Turn) -> Sample:
        """Prefill a random prompt, then decode. CalledProcessError if the engine fails."""
        ...


class Script:
    """A program of this folder whose last line is JSON: moeflux and the Python peers."""

    def __init__(
        self, name: str, program: str, *arguments: str | Path, python: str = sys.executable
    ) -> None:
        self.name = name
        self._command = [python, str(BENCH / program), *map(str, arguments)]
        self.last: dict[str, Any] = {}
        """All that the program told in its last turn."""

    def run(self, turn: Turn) -> Sample:
        command = [*self._command, "--tokens", str(turn.tokens)]
        command += ["--prompt-tokens", str(turn.prompt_tokens), "--threads", str(turn.n_threads)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        self.last = json.loads(output.splitlines()[-1])
        return Sample(
            self.last["decode_tokens_per_second"],
            self.last["prefill_tokens_per_second"],
            self.last["processor_seconds"],
        )


class LlamaCpp:
    """llama-bench on the GGUF twin."""

    name = "llama.cpp"

    def __init__(self, program: Path, twin: Path) -> None:
        self._program, self._twin = program, twin

    def run(self, turn: Turn) -> Sample:
        """One repetition; its processor seconds are what a second one adds."""
        command = [self._program, "-m", self._twin, "-t", str(turn.n_threads), "-o", "json"]
        command += ["-p", str(turn.prompt_tokens), "-n", str(turn.tokens)]
        seconds = []
        for repetitions in ("1", "2"):
            before = _processor_seconds_of_children()
            done = subprocess.run(
                [*command, "-r", repetitions], check=True, capture_output=True, text=True
            )
            seconds.append(_processor_seconds_of_children() - before)
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        speeds = {"prefill" if r["n_prompt"] else "decode": max(r["samples_ts"]) for r in rows}
        return Sample(speeds["decode"], speeds["prefill"], seconds[1] - seconds[0])


def _processor_seconds_of_children() -> float:
    """In programs and in the kernel, as moeflux counts its own."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def build_llama_bench(folder: Path) -> Path:
    """llama-bench with this processor's instructions, from the sdist of llama-cpp-python."""
    build = folder / "llama.cpp"
    program = build / "bin" / "llama-bench"
    if program.exists():
        return program
    sources = folder / "sources"
    sources.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python"]
    subprocess.run([*pip, "-d", sources, "llama-cpp-python"], check=True)
    with tarfile.open(next(sources.glob("llama_cpp_python-*.tar.gz"))) as archive:
        archive.extractall(sources, filter="data")
    root = next(sources.glob("llama_cpp_python-*/vendor/llama.cpp"))
    off = [
        f"-DLLAMA_{name}=OFF" for name in ("CURL", "BUILD_TESTS", "BUILD_EXAMPLES", "BUILD_SERVER")
    ]
    configure = ["cmake", "-S", root, "-B", build, "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON"]
    if os.uname().machine == "x86_64":
        header = sources / "tile_configuration.h"
        header.write_text(TILE_CONFIGURATION)
        configure.append(f"-DCMAKE_CXX_FLAGS=-include {header.resolve()}")
    subprocess.run([*configure, *off], check=True)
    jobs = str(os.cpu_count() or 1)
    target = ["--target", "llama-bench", "-j", jobs]
    subprocess.run(["cmake", "--build", build, *target], check=True)
    return program
