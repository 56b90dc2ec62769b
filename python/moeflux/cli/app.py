"""The program `moeflux`: its commands, and how errors become one line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import moeflux
from moeflux.cli.bench import bench
from moeflux.cli.chat import chat
from moeflux.cli.convert import convert, verify
from moeflux.cli.devices import devices
from moeflux.cli.doctor import doctor
from moeflux.cli.evaluate import commands as evaluation_commands
from moeflux.cli.exit_code import ExitCode
from moeflux.cli.info import info
from moeflux.cli.models import list_models, pull, remove
from moeflux.cli.plan import plan
from moeflux.cli.run import run
from moeflux.cli.serve import serve
from moeflux.cli.trace import commands as trace_commands
from moeflux.errors import MoefluxError

# typer brings its own copy of click or uses click's, depending on its version.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    help="Runs Mixture-of-Experts models far larger than memory, exactly, on one machine.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(run)
app.command()(chat)
app.command()(serve)
app.command()(info)
app.command()(plan)
app.command()(bench)
app.add_typer(evaluation_commands, name="eval")
app.add_typer(trace_commands, name="trace")
app.command()(pull)
app.command("ls")(list_models)
app.command("rm")(remove)
app.command()(convert)
app.command()(verify)
app.command()(devices)
app.command()(doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"moeflux {moeflux.__version__}")
        raise typer.Exit


_Version = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
]


@app.callback()
def _program(_version: _Version = False) -> None:
    """Options of the program itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program with these arguments or those of the process; returns its ExitCode."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = app(given, prog_name="moeflux", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except _UsageError as error:
        message = getattr(error, "format_message", error.__str__)()
        return _fail(message, ExitCode.WRONG_USAGE)
    except MoefluxError as error:
        return _fail(str(error), ExitCode.FAILED)
    except ValueError as error:
        return _fail(str(error), ExitCode.WRONG_USAGE)
    except OSError as error:
        return _fail(str(error), ExitCode.FAILED)
    except MemoryError:
        return _fail("out of memory", ExitCode.FAILED)
    return code if isinstance(code, int) else ExitCode.DONE


def _fail(message: str, code: ExitCode) -> ExitCode:
    """One line, whatever a file name or a checkpoint brought into the message."""
    line = " ".join(message.split())
    printable = "".join(character if character.isprintable() else "?" for character in line)
    print(f"moeflux: error: {printable}", file=sys.stderr)
    return code
