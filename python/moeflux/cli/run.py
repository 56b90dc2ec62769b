"""`moeflux run`: generated text to standard output, what it cost to standard error."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Iterable
from typing import Annotated, Any

import typer

import moeflux
from moeflux.cli.exit_code import ExitCode
from moeflux.cli.options import ModelArgument
from moeflux.memory import format_size, parse_size
from moeflux.settings import Settings

_Prompt = Annotated[
    str, typer.Argument(metavar="PROMPT", help='Text to complete; "-" reads standard input.')
]
_Stop = Annotated[
    list[str] | None, typer.Option("--stop", help="End before this text. Can be given again.")
]
_Memory = Annotated[
    str | None,
    typer.Option("--memory", help='Cap on the memory of the process: "8GB", "6.5GiB", "50%".'),
]
_Chat = Annotated[
    bool, typer.Option("--chat", help="PROMPT is a message: apply the chat template.")
]
_System = Annotated[str | None, typer.Option("--system", help="System message, with --chat.")]


def run(
    model: ModelArgument,
    prompt: _Prompt,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Most tokens.")] = 256,
    temperature: Annotated[
        float | None, typer.Option("--temp", min=0, help="0 takes the most probable token.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Keep the likeliest up to this probability.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=0, help="Keep this many of the likeliest; 0 keeps all.")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Keep this fraction of the likeliest.")
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(min=0, help="Divides logits of tokens seen before.")
    ] = None,
    presence_penalty: Annotated[
        float | None, typer.Option(help="Subtracted once from tokens of the answer.")
    ] = None,
    frequency_penalty: Annotated[
        float | None, typer.Option(help="Subtracted per occurrence in the answer.")
    ] = None,
    stop: _Stop = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The same seed draws the same text.")
    ] = None,
    device: Annotated[str, typer.Option(help="See `moeflux devices`.")] = "auto",
    memory: _Memory = None,
    threads: Annotated[
        int | None, typer.Option(min=0, help="Threads of the CPU; 0 means all cores.")
    ] = None,
    ctx_size: Annotated[
        int | None, typer.Option("--ctx-size", min=0, help="Tokens that prompt and text can have.")
    ] = None,
    chat: _Chat = False,
    system: _System = None,
) -> None:
    """Generate text after a prompt."""
    if system is not None and not chat:
        raise typer.BadParameter("only with --chat", param_hint="--system")
    if memory is not None:
        parse_size(memory)
    if sys.stdout is None:
        raise OSError("standard output is closed")
    sampling: dict[str, Any] = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "seed": seed,
    }
    text = _read_standard_input() if prompt == "-" else prompt
    with moeflux.load(model, device, memory, _settings(threads, ctx_size)) as loaded:
        events = loaded.generate(
            _messages(text, system) if chat else text,
            max_tokens=max_tokens,
            stop=stop or [],
            **{name: value for name, value in sampling.items() if value is not None},
        )
        _stream(events)


def receipt(stats: moeflux.GenerationStats) -> str:
    """What a generation cost, in one line."""
    n_tokens = stats.prompt_tokens + stats.generated_tokens
    per_token = format_size(stats.bytes_read / max(n_tokens, 1))
    return (
        f"prefill {stats.prefill_tokens_per_second:.4g} tok/s ({stats.prompt_tokens} tokens), "
        f"decode {stats.decode_tokens_per_second:.4g} tok/s ({stats.generated_tokens} tokens), "
        f"read {format_size(stats.bytes_read)} ({per_token} per token), "
        f"peak memory {format_size(stats.peak_memory_nbytes)}"
    )


def _stream(events: Iterable[moeflux.Event]) -> None:
    """Write the text as it comes, then a newline and the receipt.

    Raises typer.Exit after an interrupt, and when nobody reads standard output any more.
    """
    started, n_tokens, stats = time.perf_counter(), 0, None
    try:
        try:
            for event in events:
                _write(event.text)
                n_tokens, stats = n_tokens + 1, event.stats
        except KeyboardInterrupt:
            _write("\n")
            seconds = time.perf_counter() - started
            print(f"interrupted after {n_tokens} tokens in {seconds:.1f} s", file=sys.stderr)
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        _write("\n")
    except BrokenPipeError:
        # Python flushes standard output once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(ExitCode.BROKEN_PIPE) from None
    if stats is not None:
        print(receipt(stats), file=sys.stderr)


def _write(text: str) -> None:
    """Write UTF-8 as it is, whatever the terminal's encoding."""
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def _read_standard_input() -> str:
    if sys.stdin is None:
        raise OSError("standard input is closed")
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"standard input must be UTF-8 text: {error}") from error


def _messages(text: str, system: str | None) -> list[dict[str, object]]:
    messages: list[dict[str, object]] = [{"role": "user", "content": text}]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


def _settings(threads: int | None, context_size: int | None) -> Settings:
    given: dict[str, Any] = {"n_threads": threads, "context_size": context_size}
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(Settings.from_environment(), **changes)
