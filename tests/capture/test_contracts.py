"""CONTRACTS.md names tests that exist, for every sentence of the contracts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
TEXT = (TESTS / "metal_on_linux" / "CONTRACTS.md").read_text()
NAMES = {
    name
    for path in TESTS.rglob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", path.read_text(), flags=re.MULTILINE)
}


def test_every_test_named_in_the_contracts_exists() -> None:
    named = re.findall(r"[`:](test_\w+)(_…)?`", TEXT)
    assert len(named) > 40
    missing = [
        name + more
        for name, more in named
        if not (any(known.startswith(name + "_") for known in NAMES) if more else name in NAMES)
    ]
    assert missing == []


def test_every_file_named_in_the_contracts_exists() -> None:
    files = set(re.findall(r"`((?:\w+/)*test_\w+\.py)", TEXT))
    folders = [TESTS / below for below in ("", "metal_on_linux", "metal_on_linux/device")]
    assert [file for file in files if not any((at / file).exists() for at in folders)] == []


@pytest.mark.parametrize(("letter", "count"), [("D", 7), ("C", 12), ("W", 6), ("F", 8)])
def test_every_sentence_has_a_row(letter: str, count: int) -> None:
    rows = re.findall(rf"^\| {letter}(\d+) ", TEXT, flags=re.MULTILINE)
    assert rows == [str(number) for number in range(1, count + 1)]
