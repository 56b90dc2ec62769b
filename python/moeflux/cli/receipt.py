"""What a generation cost, for people: one line, or tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from moeflux.cli.table import compact_table
from moeflux.engine.receipt import Bound, GenerationStats, PhaseStats, PredictorStats
from moeflux.memory import format_size

MAX_RANKS = 8
"""Of a predictor's precision, best first."""
MAX_LAYERS = 8
"""With the longest waits."""

_BOUNDS = {
    "disk": "waiting for experts took most of the time",
    "host": "work of the host took most of the time",
    "memory": "the device took most of the time, reading weights at the memory's speed",
    "compute": "the device took most of the time, with bandwidth of the memory to spare",
    "device": "the device took most of the time",
}


def receipt(stats: GenerationStats) -> str:
    """What a generation cost, in one line."""
    n_tokens = stats.prompt_tokens + stats.generated_tokens
    per_token = format_size(stats.bytes_read / max(n_tokens, 1))
    copied = f"copied {format_size(stats.bytes_copied)} from RAM, " if stats.n_records else ""
    return (
        f"prefill {stats.prefill_tokens_per_second:.4g} tok/s ({stats.prompt_tokens} tokens), "
        f"decode {stats.decode_tokens_per_second:.4g} tok/s ({stats.generated_tokens} tokens), "
        f"read {format_size(stats.bytes_read)} ({per_token} per token), {copied}"
        f"peak memory {format_size(stats.peak_memory_nbytes)}"
    )


def print_receipt(stats: GenerationStats, memory_nbytes_per_second: float | None) -> None:
    """Tables on standard error."""
    console = Console(stderr=True, highlight=False)
    console.print(_phases(stats))
    console.print(_facts(stats, stats.bound(memory_nbytes_per_second)))
    if stats.predictors:
        console.print(_predictors(stats.predictors))


def _phases(stats: GenerationStats) -> Table:
    table = compact_table("What it cost")
    table.add_column("")
    for name in ("prefill", "decode"):
        table.add_column(name, justify="right")
    phases = (stats.prefill, stats.decode)
    columns = zip(
        *(_phase(phase, has_records=stats.n_records > 0) for phase in phases), strict=True
    )
    for (name, first), (_, second) in columns:
        table.add_row(name, first, second)
    return table


def _phase(phase: PhaseStats, *, has_records: bool) -> Iterable[tuple[str, str]]:
    def part(seconds: float) -> str:
        share = seconds / phase.seconds if phase.seconds > 0 else 0.0
        return f"{seconds:.3f} s ({share:.0%})"

    yield "tokens", str(phase.n_tokens)
    yield "speed", f"{phase.tokens_per_second:.4g} tok/s"
    yield "time", f"{phase.seconds:.3f} s"
    yield "  waiting for experts", part(phase.read_wait_seconds)
    yield "  waiting for the device", part(phase.device_wait_seconds)
    yield "  waiting for other sessions", part(phase.turn_wait_seconds)
    yield "  host", part(phase.host_seconds)
    yield "device at work", part(phase.device_seconds)
    yield "experts ready", f"{phase.experts_ready} ({phase.hit_rate:.1%})"
    yield "experts late", str(phase.experts_late)
    yield "experts missed", str(phase.experts_missed)
    yield "read", format_size(phase.bytes_read)
    yield "  per token", format_size(phase.bytes_read / max(1, phase.n_tokens))
    drive, page_cache = phase.drive_bytes_read, phase.page_cache_bytes_read
    yield "  from drives", "unknown" if drive is None else format_size(drive)
    yield "  from the page cache", "unknown" if page_cache is None else format_size(page_cache)
    if has_records:
        yield "copied from RAM", format_size(phase.bytes_copied)
    yield "reads that failed", str(phase.n_failed_reads)


def _facts(stats: GenerationStats, bound: Bound) -> Table:
    table = Table.grid(padding=(0, 2))
    cap = stats.memory_cap_nbytes
    rows = [
        ("bound by", f"{bound}: {_BOUNDS[bound]}"),
        ("longest waits", _waits(stats)),
        ("weights", f"{format_size(stats.weight_nbytes_per_second)}/s while the device works"),
        ("expert slots", f"{stats.n_slots} for {stats.n_experts} experts"),
        *([("experts in RAM", f"at most {stats.n_records}")] if stats.n_records else []),
        ("peak memory", format_size(stats.peak_memory_nbytes)),
        ("memory cap", "none asked for" if cap is None else format_size(cap)),
        *([("VRAM cap", format_size(stats.vram_cap_nbytes))] if stats.vram_cap_nbytes else []),
        ("lossy switches", ", ".join(stats.lossy) or "none"),
        *(("prefetch governor", _governor(stats)) for _ in stats.governor[:1]),
    ]
    for name, value in rows:
        table.add_row(Text(name, style="bold"), Text(value))
    return table


def _waits(stats: GenerationStats) -> str:
    stalls = stats.decode.stall_seconds
    longest = sorted((layer for layer in stalls if stalls[layer] > 0), key=lambda i: -stalls[i])
    shown = ", ".join(f"layer {layer} {stalls[layer]:.3f} s" for layer in longest[:MAX_LAYERS])
    return shown or "none"


def _governor(stats: GenerationStats) -> str:
    return "; ".join(
        f"at token {decision.token} {'on' if decision.enabled else 'off'}: {decision.reason}"
        for decision in stats.governor
    )


def _predictors(predictors: Sequence[PredictorStats]) -> Table:
    table = compact_table("Predictors of decode's experts")
    table.add_column("")
    for found in predictors:
        table.add_column(found.name, justify="right")
    columns = (_predictor(found) for found in predictors)
    for cells in zip(*columns, strict=True):
        table.add_row(cells[0][0], *(value for _, value in cells))
    return table


def _predictor(found: PredictorStats) -> Iterable[tuple[str, str]]:
    yield "recall", f"{found.recall:.0%}"
    yield "recall of would-be misses", f"{found.miss_recall:.0%}"
    ranks = " ".join(f"{100 * value:.0f}" for value in found.precision_by_rank[:MAX_RANKS])
    yield "precision by rank, %", ranks
    for name in ("issued", "useful", "late", "wasted", "cancelled", "failed"):
        yield f"guessed bytes {name}", format_size(getattr(found, f"{name}_nbytes"))
