"""Rows of names and values on the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_table(rows: Iterable[tuple[str, str]]) -> None:
    """Print one row per line on a wide terminal. Values are text, not markup."""
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(Text(name, style="bold"), Text(value))
    Console().print(table)
