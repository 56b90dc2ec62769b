"""Decode speed of a checkpoint: tok/s, share of the memory's limit, host's share of a token.

usage: python bench/decode.py MODEL [--tokens 64] [--threads N] [--device cpu] [--memory SIZE]
       [--activations float32|int8] [--routes TRACE] [--disk NAME_UNDER_/sys/block]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

import moeflux
from forced_routes import ForcedRoutes
from moeflux._core import measure_read_bandwidth
from moeflux.memory import peak_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--memory", default=None)
    parser.add_argument("--activations", default="float32")
    parser.add_argument("--prefetch", default="auto")
    parser.add_argument("--routes", type=Path, help="a route trace that decode steps follow")
    parser.add_argument("--disk", help="whose busy share is told")
    arguments = parser.parse_args()
    settings = moeflux.Settings(
        n_threads=arguments.threads,
        prefetch=arguments.prefetch,
        activations=arguments.activations,
    )
    info = moeflux.inspect(arguments.model)
    bandwidth = measure_read_bandwidth(2**30, arguments.threads)
    with moeflux.load(arguments.model, arguments.device, arguments.memory, settings) as model:
        result = measure(model, arguments)
        result["device"] = model.device.description
    touched = info.bytes_per_token + info.dense_bytes_per_token
    result |= {
        "model": info.model_type,
        "touched_bytes_per_token": touched,
        "weights_gb_per_second": touched * result["decode_tokens_per_second"] / 1e9,
        "memory_read_gb_per_second": bandwidth / 1e9,
        "peak_memory_nbytes": peak_memory(),
    }
    result["share_of_memory_bandwidth"] = (
        result["weights_gb_per_second"] / result["memory_read_gb_per_second"]
    )
    for name, value in result.items():
        print(f"{name:28} {value:,.4g}" if isinstance(value, float) else f"{name:28} {value}")
    print(json.dumps(result))


def measure(model: moeflux.Model, arguments: argparse.Namespace) -> dict[str, float | str | int]:
    """Prefill a random prompt, then decode greedily.

    The first quarter of the tokens warms up and is not counted, but in the mean.
    """
    n_prompt, n_tokens = arguments.prompt_tokens, arguments.tokens
    generator = np.random.default_rng(0)
    session = model.session()
    routes = ForcedRoutes(model, session, arguments.routes) if arguments.routes else None
    prompt = generator.integers(2, model.config.vocab_size, n_prompt).tolist()
    started, processor_started = time.perf_counter(), time.process_time()
    token = int(session.prefill(prompt).argmax())
    prefill_seconds = time.perf_counter() - started
    prefill_processor_seconds = time.process_time() - processor_started
    seconds: list[float] = []
    host: list[float] = []
    stream, busy = model.runtime.experts, busy_seconds(arguments.disk)
    before = stream.counters.snapshot()
    for index in range(n_tokens):
        if routes is not None:
            routes.force(index)
        waited_before, started = waited(model), time.perf_counter()
        token = int(session.decode(token).argmax())
        seconds.append(time.perf_counter() - started)
        host.append(1 - (waited(model) - waited_before) / seconds[-1])
    warm = n_tokens // 4
    spent, record = stream.counters.since(before), max(stream.record_nbytes)
    result: dict[str, float | str | int] = {
        "stall_share_of_token": sum(spent.stall_seconds) / sum(seconds),
        "hit_rate": spent.n_ready / max(1, spent.n_ready + spent.n_late + spent.n_missed),
        "read_mode": stream.read_mode.reason,
        "expert_bytes_per_token": spent.bytes_read // n_tokens,
        "missed_bytes_per_token": (spent.n_late + spent.n_missed) * record // n_tokens,
    }
    if arguments.disk:
        result["disk_busy_share"] = (busy_seconds(arguments.disk) - busy) / sum(seconds)
    return result | {
        "processor_seconds": time.process_time() - processor_started,
        "prefill_processor_seconds": prefill_processor_seconds,
        "decode_tokens_per_second": 1 / statistics.median(seconds[warm:]),
        "decode_tokens_per_second_mean": n_tokens / sum(seconds),
        "decode_tokens_per_second_late": (n_tokens // 2) / sum(seconds[-(n_tokens // 2) :]),
        "decode_tokens_per_second_low": 1 / max(seconds[warm:]),
        "prefill_tokens_per_second": n_prompt / prefill_seconds,
        "host_share_of_token": statistics.median(host[warm:]),
    }


def busy_seconds(disk: str | None) -> float:
    """Time that a disk had requests, since the machine started."""
    if disk is None:
        return 0.0
    return int(Path(f"/sys/block/{disk}/stat").read_text().split()[9]) / 1e3


def waited(model: moeflux.Model) -> float:
    """Seconds that the host has stood still for the device and for reads."""
    return model.runtime.device_wait_seconds + sum(model.runtime.experts.counters.stall_seconds)


if __name__ == "__main__":
    main()
