"""How fast is each kernel, beside what the memory can deliver?

Kernels and shapes are those of bench/ops_cases.py. The read bandwidth is that of moeflux's own
native reader with the same number of threads, measured between the kernels; shares are of the best
one. Prints a table; the last line is JSON.

usage: python bench/ops.py [--threads N] [--instruction-set NAME]
       [--activations float32|int8] [--only TEXT] [--seconds S]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from dataclasses import asdict, dataclass

from moeflux._core import Device, Step, measure_read_bandwidth, open_device
from ops_cases import CONTEXT, WORKING_SET, Case, Operands, all_cases


@dataclass(frozen=True)
class Result:
    kernel: str
    detail: str
    n_tokens: int
    microseconds: float
    gb_per_second: float
    share_of_read_bandwidth: float
    gflops: float


def seconds_per_dispatch(device: Device, case: Case, seconds: float) -> float:
    """The best run of all dispatches, divided by their number."""
    position = CONTEXT - case.n_tokens
    queue, best, end = device.queue(), float("inf"), time.perf_counter() + seconds
    for runs in range(1000):
        command_buffer = queue.command_buffer(Step(position, case.n_tokens))
        for encode in case.dispatches[: 4 if case.n_tokens > 4 else None]:
            encode(command_buffer)
        command_buffer.commit()
        command_buffer.wait()
        best = min(best, command_buffer.gpu_seconds)
        if runs > 1 and time.perf_counter() > end:
            break
    return best / len(case.dispatches[: 4 if case.n_tokens > 4 else None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--instruction-set", default="")
    parser.add_argument("--activations", choices=("float32", "int8"), default="float32")
    parser.add_argument("--only", default="", help="part of a kernel's name or detail")
    parser.add_argument("--seconds", type=float, default=0.5, help="per case")
    arguments = parser.parse_args()
    device = open_device("cpu", arguments.threads, arguments.instruction_set, arguments.activations)
    n_threads = int(device.description.split(", ")[-1].split()[0])
    limits, results = [measure_read_bandwidth(WORKING_SET, n_threads) / 1e9], []
    print(f"{device.description}; read bandwidth {limits[0]:.1f} GB/s")
    for case in all_cases(Operands(device), arguments.only):
        seconds = seconds_per_dispatch(device, case, arguments.seconds)
        limits.append(measure_read_bandwidth(WORKING_SET, n_threads) / 1e9)
        speed = case.nbytes / seconds / 1e9
        gflops = 2 * case.n_products / seconds / 1e9
        share = speed / max(limits)
        row = (case.kernel, case.detail, case.n_tokens)
        results.append(Result(*row, seconds * 1e6, speed, share, gflops))
        print(
            f"{case.kernel:22} {case.detail:38} {case.n_tokens:4} tokens"
            f" {seconds * 1e6:10.1f} us"
            f" {speed:7.1f} GB/s {share:5.0%} of reading {gflops:7.1f} GFLOP/s",
            flush=True,
        )
    summary = {
        "device": device.description,
        "machine": platform.machine(),
        "read_gb_per_second": max(limits),
        "read_gb_per_second_median": statistics.median(limits),
        "results": [asdict(result) for result in results],
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
