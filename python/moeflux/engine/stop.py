"""Stop strings in a stream of text pieces. Knows no tokens."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Ends a text before the stop string that is completed first; of two at once, the longer.

    Text that may be the beginning of a stop string is held back until that is decided, so the text
    let through does not depend on how it was cut into pieces. Each character costs constant time
    per stop string (Knuth, Morris, Pratt).
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        """Raises ValueError for an empty stop string, and for one string in place of several."""
        if isinstance(stops, str) or not all(isinstance(stop, str) and stop for stop in stops):
            raise ValueError(f"stop must be a list of strings that are not empty, got {stops!r}")
        self._stops = tuple(stops)
        self._borders = [_borders(stop) for stop in self._stops]
        self._matching = [0] * len(self._stops)
        self._held = ""
        self._matched: str | None = None

    @property
    def matched(self) -> str | None:
        """The stop string that ended the text."""
        return self._matched

    def feed(self, text: str) -> tuple[str, bool]:
        """Text that can be let through, and whether a stop string ended it.

        After that nothing more comes through.
        """
        if self._matched is not None:
            return "", True
        held = self._held + text
        for n_read, character in enumerate(text, start=len(self._held) + 1):
            completed = self._advance(character)
            if completed is not None:
                self._matched, self._held = completed, ""
                return held[: n_read - len(completed)], True
        n_through = len(held) - max(self._matching, default=0)
        self._held = held[n_through:]
        return held[:n_through], False

    def finish(self) -> str:
        """The text held back, once it is known that none follows."""
        held, self._held = self._held, ""
        self._matching = [0] * len(self._stops)
        return held

    def _advance(self, character: str) -> str | None:
        """Read a character; returns the longest stop string that ends with it."""
        completed: str | None = None
        for n, (stop, borders) in enumerate(zip(self._stops, self._borders, strict=True)):
            length = self._matching[n]
            while length and stop[length] != character:
                length = borders[length - 1]
            if stop[length] == character:
                length += 1
            self._matching[n] = length
            if length == len(stop) and len(stop) > len(completed or ""):
                completed = stop
        return completed


def _borders(text: str) -> list[int]:
    """For each prefix, the length of its longest proper suffix that is also a prefix."""
    borders = [0] * len(text)
    length = 0
    for n in range(1, len(text)):
        while length and text[length] != text[n]:
            length = borders[length - 1]
        if text[length] == text[n]:
            length += 1
        borders[n] = length
    return borders
