"""Arguments and options that several commands take."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from moeflux.memory import parse_size
from moeflux.settings import Settings

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help='A folder, a hub id (org/name) or "demo".')
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DeviceOption = Annotated[str, typer.Option("--device", help="See `moeflux devices`.")]
MemoryOption = Annotated[
    str | None,
    typer.Option("--memory", help='Cap on the memory of the process: "8GB", "6.5GiB", "50%".'),
]
VramOption = Annotated[
    str | None,
    typer.Option(
        "--vram", help='Cap on what the model takes of a GPU\'s own memory: "8GB", "50%".'
    ),
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=0, help="Threads of the CPU; 0 means all cores.")
]
SizeOption = Annotated[
    int | None, typer.Option("--ctx-size", min=0, help="Tokens that prompt and text can have.")
]


def given_settings(
    n_threads: int | None, context_size: int | None, vram: str | None = None
) -> Settings:
    """Settings of the environment, but for what options gave. Raises ValueError for no size."""
    if vram is not None:
        try:
            parse_size(vram)
        except ValueError as error:
            raise ValueError(f"--vram: {error}") from error
    given: dict[str, Any] = {"n_threads": n_threads, "context_size": context_size, "vram": vram}
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(Settings.from_environment(), **changes)
