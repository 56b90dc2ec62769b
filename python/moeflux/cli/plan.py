"""`moeflux plan`: what a run would hold, read and reach in speed, before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import moeflux
from moeflux.cli.options import (
    DeviceOption,
    JsonOption,
    MemoryOption,
    ModelArgument,
    SizeOption,
    ThreadsOption,
    VramOption,
    given_settings,
)
from moeflux.cli.table import compact_table, print_table
from moeflux.engine.placement import PromptChunk
from moeflux.memory import format_size

_Trace = Annotated[
    Path | None,
    typer.Option("--trace", metavar="FILE", help="A route trace of the model, for the hit rate."),
]


def plan(
    model: ModelArgument,
    memory: MemoryOption = None,
    vram: VramOption = None,
    ctx_size: SizeOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    trace: _Trace = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a run would need and how fast it would be, from speeds measured here."""
    planned = moeflux.plan(model, device, memory, given_settings(threads, ctx_size, vram), trace)
    if as_json:
        print(json.dumps(planned.as_dict(), indent=2))
        return
    print_table(_rows(planned))
    Console(highlight=False).print(_speeds(planned))


def _rows(planned: moeflux.Plan) -> list[tuple[str, str]]:
    needs, measured = planned.needs, planned.measured
    slots = f"{planned.n_slots} of {needs.n_experts} experts ({planned.slot_share:.0%})"
    slot_nbytes = format_size(planned.n_slots * needs.slot_nbytes)
    cold = "" if measured.drive_is_cold else ", maybe from the page cache"
    rate = f"{format_size(planned.weight_nbytes_per_second)}/s of weights"
    expected, record = planned.expected, planned.mean_record_nbytes
    return [
        ("folder", planned.info.path),
        ("device", planned.device),
        ("context", f"{planned.context_size} tokens"),
        *needs.rows()[:-1],
        ("prompts", _chunk(planned.placement.chunk)),
        ("expert slots", f"{slot_nbytes}: {slots}"),
        *_tiers(planned),
        ("needs at least", format_size(needs.floor_nbytes)),
        ("drive", f"{format_size(measured.drive.rate(needs.top_k, record))}/s of experts{cold}"),
        (
            "page cache",
            f"{format_size(measured.page_cache.rate(needs.top_k, record))}/s of experts",
        ),
        ("decode", f"{1e3 * planned.measured.decode_seconds:.3g} ms a token without reads, {rate}"),
        ("hit rate", f"{expected.hit_rate:.0%} ({planned.hit_rate_source})"),
        ("misses", _misses(planned)),
        ("expected speed", f"{expected.expected_tokens_per_second:.3g} tok/s"),
    ]


def _chunk(chunk: PromptChunk) -> str:
    more = f", {format_size(chunk.nbytes)} of further activations" if chunk.nbytes else ""
    return f"{chunk.n_tokens} tokens at a time{more}"


def _tiers(planned: moeflux.Plan) -> list[tuple[str, str]]:
    """What lies where; one row where host and device share one memory."""
    needs = planned.needs
    if needs.device is None:
        return [("resident in all", format_size(planned.resident_nbytes))]
    records_nbytes = format_size(planned.n_records * needs.slot_nbytes)
    return [
        ("experts in RAM", f"{records_nbytes}: {planned.n_records} of {needs.n_experts} experts"),
        ("on the drive alone", f"{planned.n_on_drive} of {needs.n_experts} experts"),
        ("VRAM in all", format_size(planned.device_nbytes)),
        ("RAM in all", format_size(planned.host_nbytes)),
    ]


def _misses(planned: moeflux.Plan) -> str:
    if planned.slot_share >= 1:
        return "none once every expert has been read"
    copied = f"{planned.record_share:.0%} from RAM, else " if planned.n_records else ""
    if planned.measured.direct:
        return f"{copied}from the drive, past the page cache"
    share = f"{planned.page_cache_share:.0%} from the page cache"
    return f"{copied}{share}, as memory beside the process allows, else from the drive"


def _speeds(planned: moeflux.Plan) -> Table:
    table = compact_table("Decode speed, misses read from")
    names = ["hit rate", "read per token", "drive", "page cache", "both, as expected"]
    if planned.n_records:
        names = ["hit rate", "missed per token", "drive", "page cache", "RAM", "all, as expected"]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in planned.speeds:
        speeds = (
            row.drive_tokens_per_second,
            row.page_cache_tokens_per_second,
            *([row.ram_tokens_per_second] if row.ram_tokens_per_second is not None else []),
            row.expected_tokens_per_second,
        )
        missed = row.read_nbytes_per_token + row.copied_nbytes_per_token
        texts = (f"{speed:.3g} tok/s" for speed in speeds)
        table.add_row(f"{row.hit_rate:.0%}", format_size(missed), *texts)
    return table
