"""Text of models on a terminal. Knows no terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text without what would steer a terminal."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else "\ufffd"
        for character in text
    )
