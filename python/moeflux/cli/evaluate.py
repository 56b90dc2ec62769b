"""`moeflux eval ppl` and `moeflux eval kl`: how well a model predicts, and how far it has moved."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from moeflux.cli.options import (
    DeviceOption,
    JsonOption,
    MemoryOption,
    ModelArgument,
    ThreadsOption,
    VramOption,
    given_settings,
)
from moeflux.cli.table import print_table
from moeflux.engine.inspection import inspect_checkpoint
from moeflux.evaluation import (
    Divergence,
    ModelSource,
    Perplexity,
    compare_checkpoints,
    perplexity,
    piece_nbytes,
)
from moeflux.hub import resolve
from moeflux.memory import parse_size
from moeflux.settings import Settings

PLAIN_STEPS = 20
"""Lines of progress where nobody watches a terminal."""

commands = typer.Typer(help="Perplexity of a text, and divergence between two checkpoints.")

_TextFile = Annotated[Path, typer.Argument(metavar="FILE", help="UTF-8 text.")]
_Text = Annotated[Path, typer.Option("--text", metavar="FILE", help="UTF-8 text to compare on.")]
_Other = Annotated[
    str, typer.Argument(metavar="OTHER", help="Another checkpoint of the same model.")
]
_Window = Annotated[
    int | None,
    typer.Option("--ctx-size", min=2, help="Tokens of a window. [2048, or the model's limit]"),
]
_Stride = Annotated[
    int | None,
    typer.Option("--stride", min=1, help="Tokens from one window to the next. [a whole window]"),
]


@commands.command()
def ppl(
    model: ModelArgument,
    file: _TextFile,
    ctx_size: _Window = None,
    stride: _Stride = None,
    device: DeviceOption = "auto",
    memory: MemoryOption = None,
    vram: VramOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Perplexity of a text: every token is scored once, with its window before it as context.

    A stride below the window gives tokens more context and takes longer.
    """
    text = _read(file)
    source = _source(model, device, memory, given_settings(threads, ctx_size, vram))
    reserved = piece_nbytes(inspect_checkpoint(source.folder, source.settings).vocab_size)
    with source.load(reserved) as loaded, _reported("nats per token") as progress:
        result = perplexity(loaded, text, window_size=ctx_size, stride=stride, progress=progress)
    if as_json:
        print(json.dumps(result.as_dict(), indent=2))
    else:
        print_table(_perplexity_rows(result))


@commands.command()
def kl(
    model: ModelArgument,
    other: _Other,
    text: _Text,
    ctx_size: _Window = None,
    stride: _Stride = None,
    device: DeviceOption = "auto",
    memory: MemoryOption = None,
    vram: VramOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """How far OTHER's predictions are from MODEL's: Kullback-Leibler divergence on a text.

    Both are loaded where memory has room for them, else one after the other.
    """
    content = _read(text)
    settings = given_settings(threads, ctx_size, vram)
    first, second = (_source(name, device, memory, settings) for name in (model, other))
    with _reported("KL divergence") as progress:
        result = compare_checkpoints(
            first, second, content, window_size=ctx_size, stride=stride, progress=progress
        )
    if as_json:
        print(json.dumps(result.as_dict(), indent=2))
    else:
        print_table(_divergence_rows(result))


def _source(model: str, device: str, memory: str | None, settings: Settings) -> ModelSource:
    if memory is not None:
        parse_size(memory)
    return ModelSource(resolve(model), device, memory, settings)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: wanted UTF-8 text: {error}") from error


def _perplexity_rows(result: Perplexity) -> list[tuple[str, str]]:
    return [
        ("perplexity", f"{result.perplexity:.5g} ± {result.perplexity_error:.2g}"),
        ("nats per token", f"{result.nats_per_token:.5g} ± {result.standard_error:.2g}"),
        ("bits per byte", f"{result.bits_per_byte:.5g}"),
        ("tokens", f"{result.n_tokens} scored, {result.n_bytes} bytes"),
        ("windows", f"{result.window_size} tokens, {result.stride} from one to the next"),
    ]


def _divergence_rows(result: Divergence) -> list[tuple[str, str]]:
    spread = ", ".join(
        f"{'most' if percent == 100 else f'{percent:g} %'} {value:.3g}"
        for percent, value in result.percentiles.items()
    )
    first, second = result.nats_per_token
    return [
        ("mean KL", f"{result.mean:.5g} ± {result.standard_error:.2g} nats"),
        ("percentiles", f"{spread} nats"),
        ("top-1 agreement", f"{result.top_1_agreement:.3%}"),
        ("nats per token", f"{first:.5g} and {second:.5g}"),
        ("tokens", f"{result.n_tokens} scored"),
        ("windows", f"{result.window_size} tokens, {result.stride} from one to the next"),
    ]


@contextmanager
def _reported(what: str) -> Iterator[Callable[[int, int, float | None], None]]:
    """Progress on stderr: a bar on a terminal, else a line now and then."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_lines(what)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tokens"),
        TimeRemainingColumn(),
    )
    with ProgressBar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(done: int, total: int, mean: float | None) -> None:
            found = "" if mean is None else f"{what} {mean:.4g}"
            bar.update(task, completed=done, total=total, description=found)

        yield show


def _plain_lines(what: str) -> Callable[[int, int, float | None], None]:
    shown = 0

    def show(done: int, total: int, mean: float | None) -> None:
        nonlocal shown
        step = PLAIN_STEPS * done // total
        if step > shown:
            shown = step
            found = "" if mean is None else f": {what} {mean:.4g}"
            print(f"{done} of {total} tokens{found}", file=sys.stderr, flush=True)

    return show
