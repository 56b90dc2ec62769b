"""`moeflux pull`, `ls` and `rm`: models on this disk, and from the hub to it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from moeflux.cli.exit_code import ExitCode
from moeflux.cli.options import JsonOption
from moeflux.cli.progress import byte_progress
from moeflux.cli.table import compact_table
from moeflux.engine.inspection import ModelInfo, inspect_checkpoint
from moeflux.errors import CheckpointError
from moeflux.hub import (
    PullOptions,
    PullProgress,
    StoredModel,
    find_removal,
    stored_models,
)
from moeflux.hub import pull as pull_model
from moeflux.memory import format_size
from moeflux.settings import Settings

_Repository = Annotated[
    str, typer.Argument(metavar="REPO", help="A hub id: org/name or org/name@revision.")
]
_Destination = Annotated[
    Path | None,
    typer.Argument(metavar="[DST]", help="New or unfinished folder. [~/.moeflux/models/REPO]"),
]
_Convert = Annotated[
    bool,
    typer.Option("--convert", help="Pack experts while they arrive, without a second copy."),
]
_Bits = Annotated[
    int | None,
    typer.Option("--bits", help="With --convert: requantise to 2, 3, 4, 5, 6 or 8 bits."),
]
_GroupSize = Annotated[
    int | None, typer.Option("--group-size", help="Columns per scale: 32, 64 (default) or 128.")
]
_Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A hub id (org/name) or the folder of a pull.")
]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@dataclass(frozen=True)
class ListedModel:
    """A model on this disk and what it is; `info` is None where it cannot be run."""

    stored: StoredModel
    info: ModelInfo | None
    reason: str
    """Whether it fits, or why it cannot be run."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        stored, info = self.stored, self.info
        return {
            "id": stored.name,
            "path": str(stored.path),
            "nbytes": stored.nbytes,
            "pulled": stored.pulled,
            "finished": stored.finished,
            "model_type": info and info.model_type,
            "quantisation": info and info.quantisation,
            "fits": info and info.fits,
            "fits_whole": info and info.fits_whole,
            "reason": self.reason,
        }


def pull(
    repository: _Repository,
    destination: _Destination = None,
    convert: _Convert = False,
    bits: _Bits = None,
    group_size: _GroupSize = None,
) -> ExitCode:
    """Fetch a model from the hub and check every file. Run it again to go on."""
    options = PullOptions(convert, bits, group_size)
    try:
        names = (f"fetching {repository}", "converting")
        with byte_progress(*names[: 1 + convert]) as shown:
            done = pull_model(repository, destination, options, progress=PullProgress(*shown))
    except KeyboardInterrupt:
        print(
            "interrupted: what has arrived is kept; run the same command again to go on",
            file=sys.stderr,
        )
        return ExitCode.INTERRUPTED
    fetched = f"{format_size(done.fetched_nbytes)} fetched"
    print(f"{done.path}: {done.repository} at {done.commit[:12]}, {fetched}", file=sys.stderr)
    return ExitCode.DONE


def list_models(as_json: JsonOption = False) -> None:
    """List the models that were pulled and those in the hub's folder."""
    settings = Settings.from_environment()
    listed = [_listed(stored, settings) for stored in stored_models(settings)]
    if as_json:
        print(json.dumps([model.as_dict() for model in listed], indent=2))
    elif listed:
        Console(highlight=False).print(_table(listed))
    else:
        print("no models on this disk; `moeflux pull org/name` fetches one", file=sys.stderr)


def remove(model: _Model, yes: _Yes = False) -> ExitCode:
    """Remove a model that was pulled, converted, or is in the hub's folder."""
    found = find_removal(model, Settings.from_environment())
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise typer.BadParameter("needed where nobody can be asked", param_hint="--yes")
        question = f"Remove {found.path} ({format_size(found.nbytes)})?"
        if not typer.confirm(question, err=True):
            return ExitCode.FAILED
    found.run()
    print(f"{found.path}: removed, {format_size(found.nbytes)} are free", file=sys.stderr)
    return ExitCode.DONE


def _listed(stored: StoredModel, settings: Settings) -> ListedModel:
    if not stored.finished:
        return ListedModel(stored, None, "not whole yet: pull it again to go on")
    try:
        info = inspect_checkpoint(stored.path, settings)
    except CheckpointError as error:
        return ListedModel(stored, None, f"cannot be run: {error}")
    return ListedModel(stored, info, info.reason)


def _table(listed: Iterable[ListedModel]) -> Table:
    table = compact_table("")
    table.title = None
    for name in ("model", "architecture", "quantisation", "size", "fits", "path"):
        table.add_column(name, justify="right" if name == "size" else "left", overflow="fold")
    for model in listed:
        info, stored = model.info, model.stored
        table.add_row(
            stored.name,
            info.model_type if info else "-",
            info.quantisation if info else "-",
            format_size(stored.nbytes),
            _fits(model),
            str(stored.path),
        )
    return table


def _fits(model: ListedModel) -> str:
    if model.info is None:
        return model.reason
    if not model.info.fits:
        return f"no, {model.reason}"
    return "yes, all of it" if model.info.fits_whole else "yes, experts streamed"
