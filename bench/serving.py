"""Tokens per second and bytes per token against the number of requests in flight.

usage: python bench/serving.py MODEL [--slots N | --memory SIZE] [--active 1 2 4 8] [--requests 8]
       [--tokens 32] [--prompt-tokens 64] [--text FILE] [--read-mode auto] [--prefetch auto]
       [--repeat 1]

The same requests are made each time, all at once; so many are active and the others wait. The last
token of each answer is sampled and not decoded. Prompts are pieces of a text, or random ids where
there is none. That the tokens are the same each time is checked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np

import moeflux
from moeflux.memory import format_size
from moeflux.server.jobs.job import GenerationRequest, Job
from moeflux.server.jobs.scheduler import Scheduler


@dataclass(frozen=True)
class Row:
    """One run of all requests. Times in seconds."""

    n_active: int
    tokens_per_second: float
    """Generated tokens of all requests, prefill included in the time."""
    decode_tokens_per_second: float
    """Of decode steps, in the time of decode steps."""
    decode_bytes_per_token: float
    decode_hit_rate: float
    prefill_bytes_per_token: float
    first_token_median: float
    """From submission, the time in the queue included."""
    first_token_last: float
    between_tokens_median: float
    between_tokens_p95: float


@dataclass
class Heard:
    """One answer, and when its tokens came."""

    token_ids: list[int]
    times: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("--memory")
    parser.add_argument("--slots", type=int)
    parser.add_argument("--active", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--read-mode", default="auto")
    parser.add_argument("--prefetch", default="auto")
    parser.add_argument("--repeat", type=int, default=1)
    arguments = parser.parse_args()
    settings = moeflux.Settings(read_mode=arguments.read_mode, prefetch=arguments.prefetch)
    with loaded(arguments, settings) as model:
        experts = model.runtime.experts
        print(
            f"{experts.n_slots} slots of {format_size(experts.slot_nbytes)} for "
            f"{experts.n_experts} experts, {experts.read_mode.reason}"
        )
        wanted = requests(model, arguments)
        asyncio.run(served(model, wanted, 1))  # warms up
        rows = measured(model, wanted, arguments.active, arguments.repeat)
        facts = {"n_slots": experts.n_slots, "n_experts": experts.n_experts}
    print(json.dumps(facts | {"rows": [asdict(row) for row in rows]}))


def loaded(arguments: argparse.Namespace, settings: moeflux.Settings) -> moeflux.Model:
    """Under the cap asked for, or under one that leaves the slots asked for and the sessions."""
    name, n_slots = arguments.model, arguments.slots
    if n_slots is None:
        return moeflux.load(name, memory=arguments.memory, settings=settings)
    cap, missing = 1, n_slots
    for _ in range(20):  # what the process itself takes grows by some slots with each try
        try:
            model = moeflux.load(name, memory=cap, settings=settings)
        except moeflux.MemoryCapError as error:
            cap = error.needs.fixed_nbytes + n_slots * error.needs.slot_nbytes
            continue
        missing = n_slots - model.runtime.experts.n_slots
        if not missing:
            return model
        cap += missing * model.memory_needs.slot_nbytes
        model.close()
        del model  # its slots, before the next one is measured
    raise SystemExit(f"{n_slots} slots cannot be had: {missing} are missing")


def requests(model: moeflux.Model, arguments: argparse.Namespace) -> list[GenerationRequest]:
    """Prompts that lie as far apart in the text as it allows."""
    n_prompt, n_requests = arguments.prompt_tokens, arguments.requests
    if arguments.text is not None:
        token_ids = model.tokenizer.encode(arguments.text.read_text())
        if len(token_ids) < n_prompt:
            raise SystemExit(f"{arguments.text}: {len(token_ids)} tokens, wanted {n_prompt}")
    else:
        generator, vocabulary = np.random.default_rng(0), model.config.vocab_size
        token_ids = generator.integers(2, vocabulary, n_prompt * n_requests).tolist()
    firsts = np.linspace(0, len(token_ids) - n_prompt, n_requests).astype(int).tolist()
    never_ends = dict.fromkeys(model.tokenizer.eos_token_ids, -1000.0)
    return [
        GenerationRequest(
            token_ids[first : first + n_prompt],
            max_tokens=arguments.tokens,
            sampling={"temperature": 0.8, "seed": index, "logit_bias": never_ends},
        )
        for index, first in enumerate(firsts)
    ]


def measured(
    model: moeflux.Model, wanted: Sequence[GenerationRequest], active: Sequence[int], repeat: int
) -> list[Row]:
    rows: list[Row] = []
    expected: list[list[int]] | None = None
    for _ in range(repeat):
        for n_active in active:
            row, answers = asyncio.run(served(model, wanted, n_active))
            expected = expected or answers
            if answers != expected:
                raise SystemExit(f"other tokens with {n_active} active")
            show(row)
            rows.append(row)
    return rows


async def served(
    model: moeflux.Model, wanted: Sequence[GenerationRequest], n_active: int
) -> tuple[Row, list[list[int]]]:
    with Scheduler(model, max_active=n_active, max_queued=len(wanted)) as scheduler:
        started = time.perf_counter()
        heard = await asyncio.gather(*(listen(scheduler.submit(request)) for request in wanted))
        seconds = time.perf_counter() - started
        status = scheduler.status()
    between = [gap for one in heard for gap in np.diff(one.times).tolist()]
    firsts = sorted(one.times[0] - started for one in heard)
    row = Row(
        n_active,
        sum(len(one.token_ids) for one in heard) / seconds,
        status.decode.tokens_per_second,
        status.decode.bytes_per_token,
        status.decode.hit_rate,
        status.prefill.bytes_per_token,
        median(firsts),
        firsts[-1],
        median(between),
        float(np.quantile(between, 0.95)),
    )
    return row, [one.token_ids for one in heard]


async def listen(job: Job) -> Heard:
    heard = Heard([], [])
    async for item in job:
        if isinstance(item, moeflux.Event):
            heard.token_ids.append(item.token_id)
            heard.times.append(time.perf_counter())
    return heard


def show(row: Row) -> None:
    print(
        f"{row.n_active:2} active {row.tokens_per_second:7.2f} tok/s, "
        f"decode {row.decode_tokens_per_second:7.2f} tok/s, "
        f"read {format_size(int(row.decode_bytes_per_token))} per token, "
        f"hit rate {row.decode_hit_rate:.0%}, "
        f"first token {row.first_token_median:.2f} s, last one {row.first_token_last:.2f} s, "
        f"between tokens {row.between_tokens_median * 1e3:.1f} ms",
        flush=True,
    )


if __name__ == "__main__":
    main()
