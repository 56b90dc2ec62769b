"""What an examination finds, one finding after the other, and what a user can do about it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

_FOLDERS = re.compile(r"(?<![\w.)])/(?:[^\s/'\":;,()]+/)+")


class Status(Enum):
    """Of one finding."""

    OK = "ok"
    PROBLEM = "problem"
    ABSENT = "not here"
    """This machine or device has no such thing, and needs none."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what it is like, and what to do if that is a problem."""

    topic: str
    name: str
    status: Status
    said: str
    advice: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Numbers and lists behind `said`, for programs."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "name": self.name,
            "status": self.status.value,
            "said": self.said,
            "advice": self.advice,
            "values": dict(self.values),
        }


def without_folders(text: str, private: Sequence[Path] = ()) -> str:
    """The text with file names in place of absolute paths, which tell who the user is.

    `private`: folders that are known, for those with spaces in their names.
    """
    for folder in sorted({str(path) for path in private}, key=len, reverse=True):
        if len(folder) > 1:
            text = text.replace(f"{folder}/", "/-/").replace(folder, "(a folder)")
    return _FOLDERS.sub("", text)
