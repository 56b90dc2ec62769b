"""`moeflux run`: generated text to standard output, what it cost to standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

import moeflux
from moeflux._core import measure_read_bandwidth
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
from moeflux.cli.printable import printable
from moeflux.cli.receipt import print_receipt, receipt
from moeflux.experts.timeline import Timeline
from moeflux.memory import parse_size

MEASURED_NBYTES = 256 * 2**20
"""Of memory, to learn its read bandwidth: more than caches hold."""

_Prompt = Annotated[
    str, typer.Argument(metavar="PROMPT", help='Text to complete; "-" reads standard input.')
]
_Stop = Annotated[
    list[str] | None, typer.Option("--stop", help="End before this text. Can be given again.")
]
_Chat = Annotated[
    bool, typer.Option("--chat", help="PROMPT is a message: apply the chat template.")
]
_System = Annotated[str | None, typer.Option("--system", help="System message, with --chat.")]
_Stats = Annotated[bool, typer.Option("--stats", help="Say in tables what it cost.")]
_StatsJson = Annotated[
    str | None,
    typer.Option("--stats-json", metavar="FILE", help='The same as JSON; "-": standard output.'),
]
_Trace = Annotated[
    Path | None, typer.Option("--trace", metavar="FILE", help="Write a timeline for Perfetto.")
]
_Profile = Annotated[bool, typer.Option("--profile", help="Say what the device spent its time on.")]
_ProfileKernels = Annotated[
    bool, typer.Option("--profile-kernels", help="The same, by kernel too. Slows the device.")
]
_Capture = Annotated[
    Path | None,
    typer.Option(
        "--capture",
        metavar="FILE",
        help="GPU trace (.gputrace) of a window of layers, see MOEFLUX_GPU_CAPTURE_MODE.",
    ),
]


@dataclass(frozen=True)
class _Report:
    """What to tell at the end besides the text."""

    table: bool
    json_path: str | None
    timeline_path: Path | None
    capture_path: Path | None

    def check(self) -> None:
        """Raises FileNotFoundError now rather than after a long run."""
        json_path = None if self.json_path in (None, "-") else Path(str(self.json_path))
        for path in (json_path, self.timeline_path, self.capture_path):
            if path is not None and not path.absolute().parent.is_dir():
                raise FileNotFoundError(f"{path}: no such folder")


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
    device: DeviceOption = "auto",
    memory: MemoryOption = None,
    vram: VramOption = None,
    threads: ThreadsOption = None,
    ctx_size: SizeOption = None,
    chat: _Chat = False,
    system: _System = None,
    stats: _Stats = False,
    stats_json: _StatsJson = None,
    trace: _Trace = None,
    profile: _Profile = False,
    profile_kernels: _ProfileKernels = False,
    capture: _Capture = None,
) -> ExitCode:
    """Generate text after a prompt."""
    if system is not None and not chat:
        raise typer.BadParameter("only with --chat", param_hint="--system")
    if memory is not None:
        parse_size(memory)
    report = _Report(stats, stats_json, trace, capture)
    report.check()
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
    settings = given_settings(threads, ctx_size, vram)
    if capture is not None:
        settings = replace(settings, gpu_capture_path=str(capture))
    profiler = _profiler(settings, profile=profile, per_dispatch=profile_kernels)
    watched: dict[str, Any] = {} if trace is None else {"timeline": Timeline()}
    with moeflux.load(model, device, memory, settings) as loaded:
        generation = loaded.generate(
            _messages(text, system) if chat else text,
            max_tokens=max_tokens,
            stop=stop or [],
            **watched,
            **{name: value for name, value in sampling.items() if value is not None},
        )
        try:
            with profiler or nullcontext():
                code = _stream(generation)
        finally:
            if trace is not None:
                watched["timeline"].write(trace)
        cost = generation.stats
    if code is ExitCode.INTERRUPTED:
        print(f"interrupted after {cost.generated_tokens} tokens", file=sys.stderr)
    _report(cost, report, settings.n_threads)
    if profiler is not None:
        print(profiler.to_table(), end="", file=sys.stderr)
    return code


def _profiler(
    settings: moeflux.Settings, *, profile: bool, per_dispatch: bool
) -> moeflux.Profile | None:
    """A profile where an option or the environment asks for one."""
    per_dispatch = per_dispatch or settings.profile_kernels
    if not (profile or per_dispatch or settings.profile):
        return None
    return moeflux.profile(per_dispatch=per_dispatch)


def _stream(events: Iterable[moeflux.Event]) -> ExitCode:
    """Write the text as it comes, then a newline.

    INTERRUPTED after an interrupt. Raises typer.Exit when nobody reads standard output any more.
    """
    code = ExitCode.DONE
    try:
        try:
            for event in events:
                _write(event.text)
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
        _write("\n")
    except BrokenPipeError:
        # Python flushes standard output once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(ExitCode.BROKEN_PIPE) from None
    return code


def _report(stats: moeflux.GenerationStats, report: _Report, n_threads: int) -> None:
    """The receipt on standard error; JSON where it was asked for."""
    bandwidth = None
    if (report.table or report.json_path is not None) and stats.bound() == "device":
        bandwidth = measure_read_bandwidth(MEASURED_NBYTES, n_threads)
    if report.table:
        print_receipt(stats, bandwidth)
    else:
        print(receipt(stats), file=sys.stderr)
    if report.json_path is not None:
        text = json.dumps(stats.as_dict(bandwidth), indent=2) + "\n"
        if report.json_path == "-":
            _write(text)
        else:
            Path(report.json_path).write_text(text)


def _write(text: str) -> None:
    """Write UTF-8, whatever the terminal's encoding, and nothing that would steer it."""
    shown = printable(text) if sys.stdout.isatty() else text
    sys.stdout.buffer.write(shown.encode())
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
