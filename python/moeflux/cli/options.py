"""Arguments and options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help='A folder, a hub id (org/name) or "demo".')
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
