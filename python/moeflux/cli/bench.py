"""`moeflux bench`: tokens per second, and what they cost in reads and memory."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import moeflux
from moeflux.cli.exit_code import ExitCode
from moeflux.cli.options import (
    DeviceOption,
    MemoryOption,
    ModelArgument,
    SizeOption,
    ThreadsOption,
    VramOption,
    given_settings,
)
from moeflux.cli.table import compact_table, print_table
from moeflux.evaluation import Benchmark, PhaseSpeed, SpeedWorkload
from moeflux.memory import format_size, parse_size


class BenchFormat(StrEnum):
    """Of what is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


_Prompt = Annotated[int, typer.Option("-p", min=0, help="Tokens to prefill.")]
_Generated = Annotated[int, typer.Option("-n", min=0, help="Tokens to decode.")]
_Repetitions = Annotated[int, typer.Option("-r", min=1, help="How often to measure.")]
_Output = Annotated[BenchFormat, typer.Option("-o", help="What to print.")]
_Cold = Annotated[
    bool,
    typer.Option(
        "--cold", help="Each repetition loads anew, its experts dropped from the page cache."
    ),
]
_Text = Annotated[
    Path | None,
    typer.Option("--text", metavar="FILE", help="Prompt from this text, not random tokens."),
]


def bench(
    model: ModelArgument,
    n_prompt: _Prompt = 512,
    n_generated: _Generated = 128,
    n_repetitions: _Repetitions = 5,
    output: _Output = BenchFormat.TABLE,
    cold: _Cold = False,
    text: _Text = None,
    device: DeviceOption = "auto",
    memory: MemoryOption = None,
    vram: VramOption = None,
    threads: ThreadsOption = None,
    ctx_size: SizeOption = None,
) -> ExitCode:
    """Measure prefill and decode: speed, reads, hit rate, memory.

    Without --cold one run that is not counted goes before, so that slots and page cache hold what
    they can.
    """
    if memory is not None:
        parse_size(memory)
    prompt_text = "" if text is None else text.read_text(encoding="utf-8")
    workload = SpeedWorkload(n_prompt, n_generated, n_repetitions, cold=cold, text=prompt_text)
    settings = given_settings(threads, ctx_size, vram)
    with _reported() as progress:
        result = moeflux.benchmark(model, device, memory, settings, workload, progress=progress)
    if cold and result.page_cache != "cold":
        print(
            f"moeflux: warning: --cold was asked for, the page cache was {_page_cache(result)}",
            file=sys.stderr,
        )
    if output is BenchFormat.JSON:
        print(json.dumps(result.as_dict(), indent=2))
    elif output is BenchFormat.CSV:
        _print_csv(result)
    else:
        print_table(_rows(result))
        Console(highlight=False).print(_speeds(result))
    return ExitCode.DONE


def _rows(result: Benchmark) -> list[tuple[str, str]]:
    info, cap = result.info, result.memory_cap_nbytes
    sizes = f"{format_size(info.dense_nbytes)} dense, {format_size(info.expert_nbytes)} of experts"
    cap_text = "no cap" if cap is None else f"cap {format_size(cap)}"
    rows = [
        ("model", f"{info.path}: {info.model_type}, {info.quantisation}, {sizes}"),
        ("device", result.device),
        ("repetitions", _repetitions(result)),
        ("page cache", _page_cache(result)),
        ("expert slots", f"{result.n_slots} for {result.n_experts} experts"),
        ("peak memory", f"{format_size(result.peak_memory_nbytes)} ({cap_text})"),
    ]
    rate, limit = result.decode_weight_nbytes_per_second, result.memory_nbytes_per_second
    if rate is not None:
        of_limit = f"{rate / limit:.0%} of the {format_size(limit)}/s that memory is read at"
        if rate > limit:
            of_limit += " (the processor's caches hold part, or the machine is busy)"
        rows.append(("weights in decode", f"{format_size(rate)}/s, {of_limit}"))
    return rows


def _repetitions(result: Benchmark) -> str:
    workload = result.workload
    prompt = "random tokens" if not workload.text else "text"
    if not workload.cold:
        return f"{workload.n_repetitions}, after one that does not count; prompt of {prompt}"
    load = sum(r.load_seconds for r in result.repetitions) / workload.n_repetitions
    return f"{workload.n_repetitions}, each loaded anew in {load:.3g} s; prompt of {prompt}"


def _page_cache(result: Benchmark) -> str:
    """The state that was found before the repetitions, in words."""
    shares = [r.page_cache_share for r in result.repetitions if r.page_cache_share is not None]
    if len(shares) < len(result.repetitions):
        return "unknown: the system does not tell what it holds of these files"
    low, high = (f"{100 * share:.3g}" for share in (min(shares), max(shares)))
    span = f"{low} %" if low == high else f"{low} to {high} %"
    return f"{result.page_cache}: it held {span} of the experts' bytes before each repetition"


def _speeds(result: Benchmark) -> Table:
    table = compact_table("")
    table.title = None
    for name in ("", "tokens", "tok/s", "spread", "read per token", "from drives", "hit rate"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for phase in result.phases:
        spread, drives = phase.standard_deviation, phase.drive_bytes_per_token
        table.add_row(
            phase.name,
            str(phase.n_tokens),
            f"{phase.mean:.4g}",
            "-" if spread is None else f"± {spread:.2g}",
            format_size(phase.bytes_read_per_token),
            "unknown" if drives is None else format_size(drives),
            f"{phase.hit_rate:.1%}",
        )
    return table


def _print_csv(result: Benchmark) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    rows = [_csv_row(result, phase) for phase in result.phases]
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)


def _csv_row(result: Benchmark, phase: PhaseSpeed) -> dict[str, object]:
    """By column; what is not known is empty."""
    shares = [repetition.page_cache_share for repetition in result.repetitions]
    decode = phase.name == "decode"
    return {
        "model": result.info.path,
        "device": result.device,
        "phase": phase.name,
        "n_tokens": phase.n_tokens,
        "n_repetitions": result.workload.n_repetitions,
        "page_cache": result.page_cache,
        "page_cache_share": max((share for share in shares if share is not None), default=None),
        "tokens_per_second": phase.mean,
        "standard_deviation": phase.standard_deviation,
        "bytes_read_per_token": phase.bytes_read_per_token,
        "drive_bytes_per_token": phase.drive_bytes_per_token,
        "hit_rate": phase.hit_rate,
        "peak_memory_nbytes": result.peak_memory_nbytes,
        "memory_cap_nbytes": result.memory_cap_nbytes,
        "n_slots": result.n_slots,
        "n_experts": result.n_experts,
        "weight_nbytes_per_second": result.decode_weight_nbytes_per_second if decode else None,
        "memory_nbytes_per_second": result.memory_nbytes_per_second,
    }


@contextmanager
def _reported() -> Iterator[Callable[[int, int], None]]:
    """What is under way, on stderr: a status on a terminal, else a line after each repetition."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: print(f"repetition {done} of {total}", file=sys.stderr)
        return
    with console.status("loading and warming up") as status:
        yield lambda done, total: status.update(f"{done} of {total} repetitions done")
