"""Tells control tokens that a template writes from text of users that spells one. Renders nothing.

A template mixes its own text with that of users and may trim, split or replace it, so where a piece
of the result comes from cannot be read from the result. Therefore each text of users gets marks
before rendering, a character that occurs nowhere else:

- behind every character that begins a control token. One that begins in text of users has a mark
  within, also if its rest comes from elsewhere, or if the template takes away what was between.
- before a text that continues a control token ("|im_start|>"). One that the template or another
  text begins has a mark within. Single words stay as they are: templates compare them ("function")
  and make control tokens of them on purpose ("<|" + role + "|>").

After rendering, the control tokens without a mark within are those that the template wrote, and the
marks are taken out. Texts without such characters are not touched, and marks do not change what
templates do with the others: trim, JSON, tests for anything but the spelling of a control token.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from moeflux.errors import ChatTemplateError
from moeflux.tokenizer import Tokenizer

# Linear A, Egyptian and Anatolian hieroglyphs. Unlike private-use characters they are printable, so
# that a template that writes the representation of a value leaves them as they are.
_CANDIDATES = (range(0x10600, 0x10737), range(0x13000, 0x1342F), range(0x14400, 0x14647))
_WORD = re.compile(r"\w*")


@dataclass(frozen=True)
class ControlTokens:
    """What to look for: patterns over the spellings of a tokenizer's control tokens."""

    spelled: re.Pattern[str]
    begun: re.Pattern[str]
    begun_in_answer: re.Pattern[str]
    """As `begun`, where the group "token" has control tokens that count in an answer."""
    spellings: Collection[str]
    continuations: tuple[str, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> ControlTokens:
        """The patterns for a tokenizer."""
        spellings = tokenizer.control_tokens.keys()
        begun = _any_of({spelling[0] for spelling in spellings})
        in_answer = _any_of(spellings - tokenizer.special_tokens.keys())
        return cls(
            spelled=re.compile(_any_of(spellings)),
            begun=re.compile(begun),
            begun_in_answer=re.compile(f"(?P<token>{in_answer})|{begun}"),
            spellings=spellings,
            continuations=tuple({s[n:] for s in spellings for n in range(1, len(s))}),
        )


@dataclass(frozen=True)
class Marks:
    """The mark for one rendering."""

    mark: str
    control: ControlTokens

    @classmethod
    def absent_from(cls, values: Iterable[object], control: ControlTokens) -> Marks:
        """Choose a mark that occurs in none of the values.

        Raises ChatTemplateError for a value that is not made of JSON values.
        """
        used: set[str] = set()
        for text in _texts(values):
            used.update(text)
        mark = next((chr(code) for code in chain(*_CANDIDATES) if chr(code) not in used), None)
        if mark is None:
            raise ChatTemplateError("the messages use every character that could serve as a mark")
        return cls(mark, control)

    def apply(self, value: object) -> object:
        """Mark every text in a JSON value; keys of objects too, unless they are single words."""
        if isinstance(value, str):
            return self._apply(value, self.control.begun)
        if isinstance(value, Mapping):
            return {
                key if _WORD.fullmatch(key) else self.apply(key): self.apply(entry)
                for key, entry in value.items()
            }
        return [self.apply(entry) for entry in value] if isinstance(value, list | tuple) else value

    def apply_to_message(self, message: Mapping[str, object]) -> dict[str, object]:
        """Mark a checked message: all but its role, and less in what the model itself wrote."""
        marked = {key: self.apply(value) for key, value in message.items()}
        content = message.get("content") if message["role"] == "assistant" else None
        if isinstance(content, str):
            marked["content"] = self._apply(content, self.control.begun_in_answer)
        return marked | {"role": message["role"]}

    def remove(self, text: str) -> str:
        """The text without marks."""
        return text.replace(self.mark, "")

    def runs(self, text: str) -> Iterator[tuple[str, bool]]:
        """Cut a rendered text, marks removed, so that each piece can be encoded in one way.

        Yields pieces and whether control tokens are found in them: True for as long a piece as
        possible, False for the text between two control tokens of the template if it spells one.
        """
        run: list[str] = []
        for piece, is_control in self._split(text):
            if is_control or not self.control.spelled.search(piece):
                run.append(piece)
            else:
                yield from self._joined(run)
                yield piece, False
                run = []
        yield from self._joined(run)

    def _split(self, text: str) -> Iterator[tuple[str, bool]]:
        end = 0
        for token in self.control.spelled.finditer(text):
            yield self.remove(text[end : token.start()]), False
            yield token[0], True
            end = token.end()
        yield self.remove(text[end:]), False

    def _joined(self, run: list[str]) -> Iterator[tuple[str, bool]]:
        """One piece, unless the pieces side by side spell other control tokens."""
        spelled = self.control.spelled
        joined = "".join(run)
        if spelled.findall(joined) == [piece for piece in run if spelled.fullmatch(piece)]:
            yield joined, True
        else:
            yield from ((piece, True) for piece in run)

    def _apply(self, text: str, begun: re.Pattern[str]) -> str:
        core = text.strip()
        if not core:
            return text
        marked = begun.sub(self._behind_first, text)
        if _WORD.fullmatch(core) or not self._continues(core):
            return marked
        indent = len(text) - len(text.lstrip())
        return marked[:indent] + self.mark + marked[indent:]

    def _behind_first(self, begun: re.Match[str]) -> str:
        return begun[0] if begun.groupdict().get("token") else begun[0] + self.mark

    def _continues(self, core: str) -> bool:
        return core.startswith(self.control.continuations) or any(
            core in spelling for spelling in self.control.spellings
        )


def _any_of(texts: Collection[str]) -> str:
    """A pattern for any of the texts, the longest that fits; for none of them, nothing matches."""
    alternatives = sorted(texts, key=lambda text: (-len(text), text))
    return "|".join(map(re.escape, alternatives)) if alternatives else "(?!)"


def _texts(value: object) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            if not isinstance(key, str):
                raise ChatTemplateError(f"wanted a text as the key of an object, got {key!r}")
            yield key
            yield from _texts(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _texts(entry)
    elif not (value is None or isinstance(value, bool | int | float)):
        raise ChatTemplateError(f"wanted a JSON value, got {type(value).__name__}: {value!r}")
