"""How fast a model's shapes run on a GPU: each kernel beside a copy, and decode and prefill.

Kernels as bench/metal.py measures them, as a table in Markdown. With --checkpoint, a folder that
bench/random_checkpoint.py wrote for example, also tokens per second of the whole model with all of
its experts in the GPU's memory; with a share of them there and the rest in the host's, if asked;
and of transformers in bfloat16 on the same GPU, where an interpreter that imports it is named.

usage: python bench/gpu.py [--device cuda] [--checkpoint FOLDER] [--vram-share 0.25]
       [--peer-python PROGRAM] [--result FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import moeflux
from metal import Result, measure, steps
from model_shapes import SHAPES, ModelShapes
from moeflux._core import Device
from moeflux.backends import open_device
from moeflux.doctor.device_checks import copy_bandwidth
from stand_in_operands import StandInOperands

WORKING_SET = 1 << 30
"""Bytes of stand-in weights: more than caches hold."""
SECONDS = 0.05
"""For each kind of dispatch."""
PROMPT_TOKENS, WARM_UP_TOKENS, DECODED_TOKENS = 2048, 32, 128
DECODE_PROMPT_TOKENS = 64
"""What is decoded follows so many."""
TABLE_HEAD = """\
| engine | prefill tok/s | decode tok/s | copied per token from the host's memory | read per token |
| --- | ---: | ---: | ---: | ---: |"""
PEER = Path(__file__).with_name("transformers_speed.py")


def kernel_rows(device: Device, shapes: ModelShapes, copy: float) -> Iterator[str]:
    operands = StandInOperands(device, WORKING_SET)
    for step in steps(shapes):
        yield f"\n## {'A chunk of a prompt' if step.prefill else 'One decoded token'}\n"
        yield "| kernel | of | tokens | us | GB/s | of a copy | GFLOP/s |"
        yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
        results = [measure(operands, step, work, SECONDS) for work in step]
        yield from (kernel_row(result, copy) for result in results)
        total = sum(result.work.count * result.seconds for result in results)
        yield f"\nAll dispatches of the step, as often as it has them: {1e3 * total:.2f} ms."


def kernel_row(result: Result, copy: float) -> str:
    work = result.work
    cells = (
        work.kernel,
        work.detail,
        str(work.n_tokens),
        f"{1e6 * result.seconds:.1f}",
        f"{result.gb_per_second:.1f}",
        f"{1e9 * result.gb_per_second / copy:.0%}",
        f"{result.gflops:.0f}",
    )
    return f"| {' | '.join(cells)} |"


def model_rows(folder: Path, device: str, vram_share: float | None) -> Iterator[str]:
    """With all experts in the device's memory, and with a share of them."""
    with moeflux.load(folder, device) as model:
        needs = model.memory_needs
        yield model_row(model)
    if vram_share is not None:
        slots_nbytes = math.ceil(vram_share * needs.n_experts) * needs.slot_nbytes
        settings = moeflux.Settings(vram=str(needs.device_fixed_nbytes + slots_nbytes))
        with moeflux.load(folder, device, settings=settings) as model:
            yield model_row(model)


def model_row(model: moeflux.Model) -> str:
    """Tokens per second; the second of two prompts counts, whose experts have been read once."""
    generator = np.random.default_rng(0)
    n_prompt = min(PROMPT_TOKENS, model.context_size // 2)
    session = model.session()
    for _ in range(2):
        session.reset()
        prompt = generator.integers(2, model.config.vocab_size, n_prompt).tolist()
        started = time.perf_counter()
        session.prefill(prompt)
        prefill = n_prompt / (time.perf_counter() - started)
    session.reset()
    seconds = []
    token = int(session.prefill(prompt[:DECODE_PROMPT_TOKENS]).argmax())
    stream = model.runtime.experts
    before = stream.counters.snapshot()
    for index in range(min(WARM_UP_TOKENS + DECODED_TOKENS, n_prompt - DECODE_PROMPT_TOKENS)):
        if index == WARM_UP_TOKENS:
            before = stream.counters.snapshot()
        started = time.perf_counter()
        token = int(session.decode(token).argmax())
        seconds.append(time.perf_counter() - started)
    counted, spent = seconds[WARM_UP_TOKENS:], stream.counters.since(before)
    decode, n_tokens = 1 / statistics.median(counted), len(counted)
    share = stream.n_slots / stream.n_experts
    copied, read = spent.bytes_copied / n_tokens / 1e6, spent.bytes_read / n_tokens / 1e6
    engine = f"moeflux, 4 bits, {share:.0%} of the experts"
    return f"| {engine} | {prefill:.0f} | {decode:.1f} | {copied:.0f} MB | {read:.0f} MB |"


def peer_row(folder: Path, device: str, python: str) -> str:
    """The same of transformers, which loads its random weights for either measure."""

    def speeds(prompt_tokens: int, tokens: int) -> dict[str, float]:
        command = [python, str(PEER), str(folder), "--device", device]
        command += ["--prompt-tokens", str(prompt_tokens), "--tokens", str(tokens)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        told: dict[str, float] = json.loads(output.splitlines()[-1])
        return told

    prefill = speeds(PROMPT_TOKENS, 1)["prefill_tokens_per_second"]
    decode = speeds(DECODE_PROMPT_TOKENS, DECODED_TOKENS)["decode_tokens_per_second"]
    return f"| transformers, bfloat16, all experts | {prefill:.0f} | {decode:.1f} | | |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", choices=SHAPES, default="qwen3.6-35b-a3b")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--vram-share", type=float, help="of the experts, in a second run")
    parser.add_argument("--peer-python", help="an interpreter that imports transformers")
    parser.add_argument("--result", type=Path, help="write the tables there")
    arguments = parser.parse_args()
    lines = []
    for line in report(arguments):
        print(line, flush=True)
        lines.append(line)
    if arguments.result:
        arguments.result.write_text("\n".join(lines) + "\n")


def report(arguments: argparse.Namespace) -> Iterator[str]:
    device = open_device(arguments.device)
    copy = copy_bandwidth(device, WORKING_SET)
    yield f"# {arguments.model} on {device.description}\n"
    yield f"A copy of a GiB: {copy / 1e9:.0f} GB/s, read and written."
    yield from kernel_rows(device, SHAPES[arguments.model], copy)
    if arguments.checkpoint:
        yield f"\n## The whole model\n\n{TABLE_HEAD}"
        yield from model_rows(arguments.checkpoint, arguments.device, arguments.vram_share)
        if arguments.peer_python:
            yield peer_row(arguments.checkpoint, arguments.device, arguments.peer_python)


if __name__ == "__main__":
    main()
