"""`moeflux serve`: a model over HTTP, for OpenAI's and Anthropic's clients and for Prometheus."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

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
from moeflux.memory import parse_size, total_memory
from moeflux.server.options import ServerOptions
from moeflux.settings import Settings

PREFIX_SHARE = 16
MAX_PREFIX_MEMORY = 2 * 10**9


def serve(
    model: ModelArgument,
    host: Annotated[
        str, typer.Option(help="Address to listen on; one beyond this machine needs --api-key.")
    ] = ServerOptions.host,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="0 takes a free one.")
    ] = ServerOptions.port,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key",
            help="Key that requests must have. Can be given again. @FILE reads it from a file.",
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option("--cors-origin", help="Web page that may ask. Can be given again."),
    ] = None,
    alias: Annotated[
        list[str] | None, typer.Option(help="The model's name in requests. Can be given again.")
    ] = None,
    max_active: Annotated[
        int, typer.Option(min=1, help="Requests that generate in turns.")
    ] = ServerOptions.max_active,
    max_queued: Annotated[
        int, typer.Option(min=0, help="Requests that wait; further ones get 429.")
    ] = ServerOptions.max_queued,
    max_body: Annotated[str, typer.Option(help='Size of a request: "8MiB".')] = "8MiB",
    prefix_memory: Annotated[
        str | None,
        typer.Option(
            help="For prompts that come again; 0 for none. Else a 16th of --memory, at most 2GB."
        ),
    ] = None,
    prefix_folder: Annotated[
        str | None, typer.Option(help="Folder in which such prompts outlive the server.")
    ] = None,
    device: DeviceOption = "auto",
    memory: MemoryOption = None,
    vram: VramOption = None,
    threads: ThreadsOption = None,
    ctx_size: SizeOption = None,
) -> ExitCode:
    """Serve a model over HTTP until interrupted."""
    if memory is not None:
        parse_size(memory)
    options = ServerOptions(
        host=host,
        port=port,
        api_keys=tuple(map(_key, api_key or ())),
        cors_origins=tuple(cors_origin or ()),
        aliases=tuple(alias or ()),
        max_active=max_active,
        max_queued=max_queued,
        max_body=parse_size(max_body),
    )
    # The web framework is loaded here, so that other commands start without it.
    from moeflux.server.loading import ModelSource  # noqa: PLC0415
    from moeflux.server.run import run_server  # noqa: PLC0415

    settings = given_settings(threads, ctx_size, vram)
    prefix_memory = prefix_memory or _prefix_memory(settings, memory)
    prefix_folder = settings.prefix_folder if prefix_folder is None else prefix_folder
    settings = replace(settings, prefix_memory=prefix_memory, prefix_folder=prefix_folder)
    source = ModelSource(model, device, memory, settings)
    return ExitCode.DONE if run_server(source, options, _say) else ExitCode.FAILED


def _prefix_memory(settings: Settings, memory: str | None) -> str:
    """What the environment says; without a word, a share of the memory there is."""
    if settings.prefix_memory != Settings.prefix_memory:
        return settings.prefix_memory
    whole = total_memory() if memory is None else parse_size(memory)
    return str(min(whole // PREFIX_SHARE, MAX_PREFIX_MEMORY))


def _key(given: str) -> str:
    """A key, or the first line of the file that @FILE names."""
    if not given.startswith("@"):
        return given
    with Path(given[1:]).open(encoding="utf-8") as file:
        return file.readline().strip()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
