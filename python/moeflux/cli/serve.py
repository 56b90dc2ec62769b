"""`moeflux serve`: a model over HTTP, for OpenAI's and Anthropic's clients and for Prometheus."""

from __future__ import annotations

import sys
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
    given_settings,
)
from moeflux.memory import parse_size
from moeflux.server.options import ServerOptions


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
    max_body: Annotated[str, typer.Option(help='Size of a request: "16MiB".')] = "16MiB",
    device: DeviceOption = "auto",
    memory: MemoryOption = None,
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

    source = ModelSource(model, device, memory, given_settings(threads, ctx_size))
    return ExitCode.DONE if run_server(source, options, _say) else ExitCode.FAILED


def _key(given: str) -> str:
    """A key, or the first line of the file that @FILE names."""
    if not given.startswith("@"):
        return given
    with Path(given[1:]).open(encoding="utf-8") as file:
        return file.readline().strip()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
