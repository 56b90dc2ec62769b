"""What decides about experts runs anywhere: no device, no array library, no clock, no thread."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import moeflux.experts.slots

FOLDER = Path(moeflux.experts.slots.__file__).parent
DECIDING = (
    "eviction",
    "floor",
    "governor",
    "idle",
    "lease",
    "predict",
    "prefetch",
    "residency",
    "slot_contents",
    "slots",
    "standing",
)
WITH_FILES = ("replay", "trace")
CLOCKS_THREADS_AND_IO = {
    "asyncio",
    "datetime",
    "io",
    "os",
    "pathlib",
    "random",
    "threading",
    "time",
}


def imported(name: str) -> set[str]:
    """Modules that a file of the folder imports."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            modules.add(node.module)
    return modules


@pytest.mark.parametrize("name", [*DECIDING, *WITH_FILES])
def test_only_the_standard_library_and_this_folder_are_imported(name: str) -> None:
    allowed = {f"moeflux.experts.{other}" for other in (*DECIDING, *WITH_FILES)}
    foreign = {
        module
        for module in imported(name) - allowed - {"moeflux.errors"}
        if module.partition(".")[0] not in sys.stdlib_module_names
    }
    assert foreign == set()


@pytest.mark.parametrize("name", DECIDING)
def test_times_come_in_as_arguments_and_nothing_is_read(name: str) -> None:
    assert {module.partition(".")[0] for module in imported(name)} & CLOCKS_THREADS_AND_IO == set()
