"""Rows of names and values on the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_table(rows: Iterable[tuple[str, str]]) -> None:
    """Print one row per line on a wide terminal. Values are text, not markup."""
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(Text(name, style="bold"), Text(value))
    Console().print(table)


def compact_table(title: str) -> Table:
    """An empty table with a title and little room between its columns."""
    return Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
