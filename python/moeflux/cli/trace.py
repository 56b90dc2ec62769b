"""`moeflux trace record` and `moeflux trace replay`: which experts tokens route to, and what if."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import moeflux
from moeflux.cli.exit_code import ExitCode
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
from moeflux.cli.plot import check_can_plot, plot_hit_rates
from moeflux.cli.table import compact_table
from moeflux.engine.routes import RouteRecorder, trace_header
from moeflux.experts.eviction import POLICY_NAMES
from moeflux.experts.replay import BELADY, PREDICTOR_NAMES, ReplayResult, ReplaySettings, replay
from moeflux.experts.trace import Trace, TraceHeader, TraceReader, TraceWriter, load
from moeflux.memory import format_size, parse_size

DEFAULT_SLOTS = "5%,10%,20%,30%,40%,50%,60%,70%,80%,90%,100%"
DEFAULT_POLICIES = ",".join((*POLICY_NAMES, BELADY))

commands = typer.Typer(help="Record which experts tokens route to, and replay that.")

_Prompt = Annotated[
    str | None, typer.Argument(metavar="PROMPT", help="Text to complete; or give --file.")
]
_File = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", help="Read the prompt from this file.")
]
_Out = Annotated[
    Path,
    typer.Option("--out", "-o", metavar="OUT", help="The trace; one of this model is continued."),
]
_TraceFile = Annotated[Path, typer.Argument(metavar="TRACE", help="May be gzip-compressed.")]
_Slots = Annotated[
    str | None,
    typer.Option("--slots", help=f'Pool sizes: "64,128" or "10%,50%". [{DEFAULT_SLOTS}]'),
]
_SlotMemory = Annotated[
    str | None, typer.Option("--memory", help='The same as memory for slots: "1GB,2GB".')
]
_Policies = Annotated[str, typer.Option("--policy", help=f"Any of {DEFAULT_POLICIES}.")]
_Predictors = Annotated[
    str, typer.Option("--predictor", help=f"Any of {','.join(PREDICTOR_NAMES)}.")
]
_Limit = Annotated[
    str | None,
    typer.Option("--limit", help="Cap of guessed bytes under way. [top_k experts]"),
]
_Window = Annotated[
    str | None,
    typer.Option("--window", help="Guessed bytes the drive delivers per layer. [all]"),
]
_Plot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", help="Draw hit rate against pool size: .png, .svg."),
]


@dataclass(frozen=True)
class ReplayRow:
    """One simulated run."""

    n_slots: int
    share: float
    """Of all experts."""
    policy: str
    predictor: str
    hit_rate: float
    stall_rate: float
    """Share of a token's layers that had to wait."""
    read_nbytes: int
    useful_nbytes: int
    """Of guesses: in memory or under way when routed to."""
    wasted_nbytes: int
    """Of guesses: read and not routed to."""

    @classmethod
    def of(cls, header: TraceHeader, result: ReplayResult) -> ReplayRow:
        settings, guesses = result.settings, result.guesses.values()
        return cls(
            settings.n_slots,
            settings.n_slots / (header.n_layers * header.n_experts),
            settings.policy,
            settings.predictor,
            result.decode.hit_rate,
            result.decode.stall_rate,
            result.read_nbytes,
            sum(guess.useful_nbytes + guess.late_nbytes for guess in guesses),
            sum(guess.wasted_nbytes for guess in guesses),
        )


@commands.command()
def record(
    model: ModelArgument,
    out: _Out,
    prompt: _Prompt = None,
    file: _File = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Most tokens.")] = 256,
    temperature: Annotated[float, typer.Option("--temp", min=0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of drawn tokens.")] = 0,
    chat: Annotated[bool, typer.Option("--chat", help="Apply the chat template.")] = False,
    device: DeviceOption = "auto",
    memory: MemoryOption = None,
    vram: VramOption = None,
    threads: ThreadsOption = None,
    ctx_size: SizeOption = None,
) -> ExitCode:
    """Generate after a prompt, and write down which experts every token routes to."""
    if (prompt is None) == (file is None):
        raise typer.BadParameter("give either PROMPT or --file", param_hint="PROMPT")
    text = prompt if prompt is not None else _text_of(file)
    code = ExitCode.DONE
    with moeflux.load(model, device, memory, given_settings(threads, ctx_size, vram)) as loaded:
        loaded.runtime.records_guesses = True
        header = trace_header(loaded.config, loaded.runtime.experts)
        with TraceWriter(out, header) as writer:
            routes = RouteRecorder(writer.write, first_sequence=_next_sequence(out))
            generation = loaded.generate(
                [{"role": "user", "content": text}] if chat else text,
                max_tokens=max_tokens,
                routes=routes,
                temperature=temperature,
                seed=seed,
            )
            try:
                for _ in generation:
                    pass
            except KeyboardInterrupt:
                code = ExitCode.INTERRUPTED
    stats = generation.stats
    n_recorded = stats.prefill.n_tokens + stats.decode.n_tokens
    print(f"{out}: {n_recorded} tokens added, {format_size(out.stat().st_size)}", file=sys.stderr)
    return code


@commands.command("replay")
def replay_command(
    trace: _TraceFile,
    slots: _Slots = None,
    memory: _SlotMemory = None,
    policy: _Policies = DEFAULT_POLICIES,
    predictor: _Predictors = "none",
    limit: _Limit = None,
    window: _Window = None,
    plot: _Plot = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate pools, policies and predictors over a route trace."""
    if slots is not None and memory is not None:
        raise typer.BadParameter("not together with --memory", param_hint="--slots")
    if plot is not None:
        check_can_plot()
    loaded = load(trace)
    header = loaded.header
    largest = max(header.record_nbytes)
    if memory is None:
        sizes = _slot_counts(slots or DEFAULT_SLOTS, header)
    else:
        sizes = [parse_size(size) // largest for size in _names(memory)]
    guesses: dict[str, Any] = {
        "limit_nbytes": header.top_k * largest if limit is None else parse_size(limit),
        "window_nbytes": None if window is None else parse_size(window),
    }
    settings = [
        ReplaySettings(size, one_policy, one_predictor, **guesses)
        for size in sizes
        for one_policy in _names(policy)
        for one_predictor in _names(predictor)
    ]
    rows = [ReplayRow.of(header, replay(loaded, one)) for one in settings]
    if plot is not None:
        plot_hit_rates(rows, _title(trace, loaded), plot)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        Console(highlight=False).print(_table(rows, _title(trace, loaded)))


def _text_of(file: Path | None) -> str:
    assert file is not None
    try:
        return file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} must be UTF-8 text: {error}") from error


def _next_sequence(path: Path) -> int:
    with TraceReader(path) as reader:
        return 1 + max((token.sequence for token in reader), default=-1)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _slot_counts(text: str, header: TraceHeader) -> list[int]:
    """Pool sizes from numbers and shares of all experts; shares too small for a token are left."""
    n_all = header.n_layers * header.n_experts
    counts: dict[int, None] = {}
    for part in _names(text):
        number = part.removesuffix("%")
        try:
            value = float(number) / 100 * n_all if number != part else int(number)
        except ValueError:
            raise ValueError(f'--slots takes numbers or shares like "10%", got {part!r}') from None
        if number == part or value >= header.top_k:
            counts[round(value)] = None
    return list(counts)


def _title(path: Path, trace: Trace) -> str:
    header = trace.header
    n_decoded = sum(not token.prefill for token in trace.tokens)
    model = f"{header.model_type}, {header.n_layers} layers of {header.n_experts} experts"
    n_prompt = len(trace.tokens) - n_decoded
    return f"{path.name}: {model}, {n_prompt} prompt and {n_decoded} decoded tokens"


def _table(rows: Sequence[ReplayRow], title: str) -> Table:
    table = compact_table(title)
    for name in ("slots", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("policy", no_wrap=True)
    table.add_column("predictor", no_wrap=True)
    for name in ("hit rate", "stalls", "read", "useful", "wasted"):
        table.add_column(name, justify="right", no_wrap=True)
    for index, row in enumerate(rows):
        following = rows[index + 1 : index + 2]
        sizes = (row.read_nbytes, row.useful_nbytes, row.wasted_nbytes)
        table.add_row(
            str(row.n_slots),
            f"{row.share:.0%}",
            row.policy,
            row.predictor,
            f"{row.hit_rate:.1%}",
            f"{row.stall_rate:.1%}",
            *(format_size(size) for size in sizes),
            end_section=any(other.n_slots != row.n_slots for other in following),
        )
    return table
