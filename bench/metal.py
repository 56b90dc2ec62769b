"""How near is each kernel to what the device's memory allows? All dispatches of a model's step.

For one decoded token and one chunk of a prompt: bytes and floating-point operations per dispatch
(kernel_costs.py, mixer_costs.py) against the measured time, beside the bandwidth of a copy on the
same device, which what caches hold may exceed. Runs on every device of the package. Prints a
table; the last line is JSON. --table-only writes the costs alone, to compare a run with.

usage: python bench/metal.py [--device metal] [--model qwen3.6-35b-a3b] [--only TEXT] [--seconds S]
       python bench/metal.py --table-only [FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernel_costs import Cost
from metal_dispatches import StepWork, Work
from model_shapes import SHAPES, ModelShapes
from moeflux._core import Device, Step
from moeflux.backends import device_names, open_device
from moeflux.doctor.device_checks import copy_bandwidth
from moeflux.settings import Settings
from ops_cases import format_name
from stand_in_operands import StandInOperands

TABLE = Path(__file__).parent / "results" / "metal_kernels.md"
CHUNK = 256
MOST_RUNS = 200
MOST_PREFILL_DISPATCHES = 4
SHORTEST_SECONDS = 1e-9  # where a clock is too coarse


@dataclass(frozen=True)
class Result:
    """Of one dispatch."""

    work: Work
    seconds: float

    @property
    def gb_per_second(self) -> float:
        return self.work.cost.nbytes / self.seconds / 1e9

    @property
    def gflops(self) -> float:
        return self.work.cost.flops / self.seconds / 1e9

    def as_dict(self, copy_bytes_per_second: float) -> dict[str, str | int | float | bool]:
        work = self.work
        return {
            "kernel": work.kernel,
            "detail": work.detail,
            "n_tokens": work.n_tokens,
            "prefill": work.prefill,
            "count": work.count,
            "nbytes": work.cost.nbytes,
            "flops": work.cost.flops,
            "microseconds": self.seconds * 1e6,
            "gb_per_second": self.gb_per_second,
            "share_of_copy_bandwidth": self.gb_per_second * 1e9 / copy_bytes_per_second,
            "gflops": self.gflops,
        }


def steps(shapes: ModelShapes) -> tuple[StepWork, StepWork]:
    """A decoded token and a chunk of a prompt, both at the end of the context."""
    chunk = min(CHUNK, shapes.context)
    return StepWork(shapes, 1, prefill=False), StepWork(shapes, chunk, prefill=True)


def measure(operands: StandInOperands, step: StepWork, work: Work, seconds: float) -> Result:
    """The best run of all dispatches in one command buffer, divided by their number."""
    dispatches = work.dispatches(operands)[: MOST_PREFILL_DISPATCHES if work.prefill else None]
    position = step.shapes.context - work.n_tokens
    queue, best, end = operands.device.queue(), float("inf"), time.perf_counter() + seconds
    for runs in range(MOST_RUNS):
        # The first run also compiles; a later one is the best.
        command_buffer = queue.command_buffer(Step(position, work.n_tokens, prefill=work.prefill))
        for encode in dispatches:
            encode(command_buffer)
        command_buffer.commit()
        command_buffer.wait()
        best = min(best, command_buffer.gpu_seconds)
        if runs and time.perf_counter() > end:
            break
    return Result(work, max(best, SHORTEST_SECONDS) / len(dispatches))


def total(works: Iterator[Work] | StepWork) -> Cost:
    """Of a whole step."""
    costs = [Cost(work.count * work.cost.nbytes, work.count * work.cost.flops) for work in works]
    return sum(costs, Cost(0, 0))


def cost_table(shapes: ModelShapes) -> str:
    """Markdown: what every dispatch must move and compute, and the whole steps."""
    lines = [
        f"# What each kernel must move and compute: {shapes.name}",
        "",
        "Written by `python bench/metal.py --table-only`; `python bench/metal.py` measures it.",
        f"Weights: {format_name(shapes.form)}. Activations and states: float32.",
        "",
        "Every distinct byte counts once, read or written, and so does every operation",
        "([kernel_costs.py](../kernel_costs.py), [mixer_costs.py](../mixer_costs.py)). The last",
        "two columns are the least times at 100 GB/s and at 1 TFLOP/s; scaled to a machine, the",
        "larger one is the limit of a dispatch. *count*: such dispatches in one step.",
    ]
    for step in steps(shapes):
        what = f"A chunk of {step.n_tokens} prompt tokens" if step.prefill else "One decoded token"
        lines += ["", f"## {what}, at position {step.position}", ""]
        lines += [
            "| kernel | of | tokens | count | bytes | flop | flop/byte | 100 GB/s | 1 TFLOP/s |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for work in step:
            lines.append(_row(work.kernel, work.detail, work.n_tokens, str(work.count), work.cost))
        lines.append(_row("**whole step**", "", step.n_tokens, "", total(step)))
    return "\n".join(lines) + "\n"


def _row(kernel: str, detail: str, n_tokens: int, count: str, cost: Cost) -> str:
    cells = (
        kernel,
        detail,
        str(n_tokens),
        count,
        f"{cost.nbytes:,}",
        f"{cost.flops:,}",
        f"{cost.flops / cost.nbytes:.3g}",
        f"{cost.nbytes / 100e9 * 1e6:,.3f} us",
        f"{cost.flops / 1e12 * 1e6:,.3f} us",
    )
    return f"| {' | '.join(cells)} |"


def print_result(result: Result, copy_bytes_per_second: float) -> None:
    work = result.work
    share = result.gb_per_second * 1e9 / copy_bytes_per_second
    print(
        f"{work.kernel:22} {work.detail:44} {work.n_tokens:4} tokens x {work.count:3}"
        f" {work.cost.nbytes / 1e6:9.3f} MB {work.cost.flops / 1e6:10.3f} MFLOP"
        f" {result.seconds * 1e6:10.1f} us {result.gb_per_second:7.1f} GB/s {share:5.0%} of a copy"
        f" {result.gflops:8.1f} GFLOP/s",
        flush=True,
    )


def run(device: Device, shapes: ModelShapes, arguments: argparse.Namespace) -> None:
    working_set = int(arguments.working_set * 1e6)
    limits = [copy_bandwidth(device, working_set)]
    print(f"{device.name}: {device.description}; a copy: {limits[0] / 1e9:.1f} GB/s")
    operands, results = StandInOperands(device, working_set), []
    for step in steps(shapes):
        measured = []
        for work in step:
            if arguments.only in f"{work.kernel} {work.detail} {work.n_tokens} tokens":
                measured.append(measure(operands, step, work, arguments.seconds))
                limits.append(copy_bandwidth(device, working_set))
                print_result(measured[-1], max(limits))
        print_step(step, measured, max(limits))
        results += measured
    summary = {
        "device": device.description,
        "machine": platform.machine(),
        "model": shapes.name,
        "copy_gb_per_second": max(limits) / 1e9,
        "results": [result.as_dict(max(limits)) for result in results],
    }
    print(json.dumps(summary))


def print_step(step: StepWork, results: Sequence[Result], copy_bytes_per_second: float) -> None:
    """What the measured dispatches add up to in a whole step."""
    if not results:
        return
    cost = total(iter([result.work for result in results]))
    seconds = sum(result.work.count * result.seconds for result in results)
    if seconds:
        what = f"chunk of {step.n_tokens}" if step.prefill else "token"
        print(
            f"all dispatches of a {what}: {seconds * 1e3:.2f} ms, {cost.nbytes / 1e6:.1f} MB, at "
            f"{cost.nbytes / seconds / 1e9:.1f} GB/s,"
            f" {cost.nbytes / seconds / copy_bytes_per_second:.0%} of a copy\n"
        )


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default=device_names()[0])
    parser.add_argument("--model", choices=SHAPES, default="qwen3.6-35b-a3b")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU")
    parser.add_argument("--only", default="", help="part of a kernel's name or detail")
    parser.add_argument("--seconds", type=float, default=0.3, help="per kind of dispatch")
    parser.add_argument(
        "--working-set", type=float, default=256, metavar="MB", help="more than caches hold"
    )
    parser.add_argument(
        "--table-only", type=Path, nargs="?", const=TABLE, metavar="FILE", help="write costs only"
    )
    arguments = parser.parse_args(given)
    shapes = SHAPES[arguments.model]
    if arguments.table_only is not None:
        arguments.table_only.write_text(cost_table(shapes))
        print(arguments.table_only)
        return
    run(open_device(arguments.device, Settings(n_threads=arguments.threads)), shapes, arguments)


if __name__ == "__main__":
    main()
