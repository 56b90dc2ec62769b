"""`moeflux convert` and `moeflux verify`: packed checkpoints, made and checked."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from moeflux.checkpoint.convert import convert as convert_checkpoint
from moeflux.checkpoint.verify import Verification
from moeflux.checkpoint.verify import verify as verify_checkpoint
from moeflux.cli.exit_code import ExitCode
from moeflux.cli.options import JsonOption, ModelArgument
from moeflux.cli.progress import byte_progress
from moeflux.hub import resolve
from moeflux.memory import format_size

_Source = Annotated[
    str, typer.Argument(metavar="SRC", help='A folder, a hub id (org/name) or "demo".')
]
_Destination = Annotated[Path, typer.Argument(metavar="DST", help="New or unfinished folder.")]
_Bits = Annotated[
    int | None,
    typer.Option("--bits", help="Requantise to 2, 3, 4, 5, 6 or 8 bits; without, keep all bytes."),
]
_GroupSize = Annotated[
    int | None,
    typer.Option("--group-size", help="Columns per scale: 32, 64 (default) or 128; needs --bits."),
]


def convert(
    source: _Source, destination: _Destination, bits: _Bits = None, group_size: _GroupSize = None
) -> ExitCode:
    """Write a checkpoint in the packed layout: one aligned record with a checksum per expert.

    Run it again to go on after an interruption.
    """
    try:
        with byte_progress(f"converting to {destination}") as (progress,):
            done = convert_checkpoint(
                resolve(source), destination, bits=bits, group_size=group_size, progress=progress
            )
    except KeyboardInterrupt:
        print(
            f"interrupted: what is finished is kept in {destination}; "
            "run the same command again to go on",
            file=sys.stderr,
        )
        return ExitCode.INTERRUPTED
    kept = f", of which {format_size(done.kept_nbytes)} from before" if done.kept_nbytes else ""
    print(f"{done.path}: {format_size(done.nbytes)} of weights{kept}", file=sys.stderr)
    return ExitCode.DONE


def verify(model: ModelArgument, as_json: JsonOption = False) -> ExitCode:
    """Read every record of a packed checkpoint again and compare checksums."""
    with byte_progress(f"verifying {model}") as (progress,):
        result = verify_checkpoint(resolve(model), progress=progress)
    if as_json:
        print(json.dumps(_json_values(result), indent=2))
    else:
        _print_result(result)
    return ExitCode.FAILED if result.damaged else ExitCode.DONE


def _json_values(result: Verification) -> dict[str, object]:
    values = dataclasses.asdict(result) | {"path": str(result.path)}
    values["damaged"] = [
        dataclasses.asdict(part) | {"path": str(part.path)} for part in result.damaged
    ]
    return values


def _print_result(result: Verification) -> None:
    for part in result.damaged:
        print(part)
    if not result.has_checksums:
        print(
            f"{result.path}: headers and sizes are right; it has no checksums, so that nothing "
            "more can be checked ('moeflux convert' makes a copy that has them)"
        )
    else:
        state = f"{len(result.damaged)} parts are damaged" if result.damaged else "all is well"
        read = f"{result.n_records} expert records, {format_size(result.nbytes)} in all"
        print(f"{result.path}: read {read}: {state}")
