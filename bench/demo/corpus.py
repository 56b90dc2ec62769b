"""Collect CPython's library and documentation sources into train and held-out documents.

Writes `train.jsonl` and `heldout.jsonl`, one {"path", "text"} object a line. Knows nothing about
tokens. A module, its tests and its manual page share one key and always land on the same side.
"""

import argparse
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chat_examples import function_chats, tool_chats

SKIPPED_FOLDERS = {
    "site-packages",
    "__pycache__",
    "pydoc_data",
    "lib-dynload",
    "data",
    "encodings",
    "ensurepip",
    "cjkencodings",
    "tokenizedata",
    "typinganndata",
}
SKIPPED_PREFIXES = ("_sysconfigdata", "bad", "config-")
LARGEST_FILE = 400_000
LARGEST_DIGIT_SHARE = 0.2
LARGEST_FOREIGN_SHARE = 0.2


@dataclass(frozen=True)
class Document:
    """One text file and the path it is known by inside its source tree."""

    path: str
    text: str

    @property
    def key(self) -> str:
        """Name shared by a module, its tests and its manual page."""
        path = Path(self.path)
        stem = path.name.split(".")[0]
        if stem in ("__init__", "__main__", "index"):
            stem = path.parent.name
        return stem.removeprefix("test_").strip("_").lower()


def is_readable_text(text: str) -> bool:
    """False for tables of numbers and escapes, which would only teach the model noise."""
    printed = [character for character in text if not character.isspace()]
    if len(printed) < 100:
        return False
    digits = sum(character.isdigit() for character in printed)
    foreign = sum(character == "\\" or ord(character) > 127 for character in printed)
    return digits < LARGEST_DIGIT_SHARE * len(printed) and foreign < LARGEST_FOREIGN_SHARE * len(
        printed
    )


def read_tree(root: Path, suffix: str) -> Iterator[Document]:
    """Yield the readable UTF-8 files under `root` in path order."""
    for path in sorted(root.rglob(f"*{suffix}")):
        relative = path.relative_to(root)
        if SKIPPED_FOLDERS.intersection(relative.parts[:-1]):
            continue
        if relative.name.startswith(SKIPPED_PREFIXES) or path.stat().st_size > LARGEST_FILE:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        text = text.replace("\r\n", "\n").expandtabs(8)
        if is_readable_text(text):
            yield Document(str(relative), text)


def new_line_share(text: str, known_lines: set[str]) -> float:
    """Share of the distinct non-empty lines of `text` that are not in `known_lines`."""
    lines = {line.strip() for line in text.splitlines() if line.strip()}
    return len(lines - known_lines) / max(1, len(lines))


def collect(libraries: list[Path], manuals: list[Path], least_new: float) -> list[Document]:
    """Read all trees; of an older library keep only files with enough lines not seen before."""
    documents: list[Document] = []
    known_lines: set[str] = set()
    for root in libraries:
        tree = list(read_tree(root, ".py"))
        if documents:
            tree = [d for d in tree if new_line_share(d.text, known_lines) >= least_new]
        for document in tree:
            known_lines.update(line.strip() for line in document.text.splitlines())
        documents += [Document(f"{root.name}/{d.path}", d.text) for d in tree]
    for root in manuals:
        for document in read_tree(root, ".rst.txt"):
            text = re.sub(r"\n{4,}", "\n\n\n", document.text)
            documents.append(Document(f"manual/{document.path}", text))
    return documents


def is_held_out(key: str, percent: float) -> bool:
    """Choose keys by hash, so that the split does not depend on order or on the machine."""
    value = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    return value < percent / 100 * 2**64


def write_lines(path: Path, documents: list[Document]) -> None:
    """Write one JSON object a line, in an order fixed by a hash, and report the sizes."""
    ordered = sorted(documents, key=lambda d: hashlib.sha256((d.path + d.text).encode()).digest())
    with path.open("w", encoding="utf-8") as file:
        for document in ordered:
            file.write(json.dumps({"path": document.path, "text": document.text}) + "\n")
    size = sum(len(document.text.encode()) for document in documents)
    print(f"{path.name}: {len(documents)} documents, {size / 1e6:.2f} MB")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--library",
        type=Path,
        action="append",
        required=True,
        help="a Lib folder of CPython, newest first; may be repeated",
    )
    parser.add_argument(
        "--manual",
        type=Path,
        action="append",
        default=[],
        help="a folder with the manual's *.rst.txt sources; may be repeated",
    )
    parser.add_argument("--held-out-percent", type=float, default=2.0)
    parser.add_argument("--least-new", type=float, default=0.2)
    parser.add_argument("--tool-chats", type=int, default=2000)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    documents = collect(options.library, options.manual, options.least_new)
    held_out = [d for d in documents if is_held_out(d.key, options.held_out_percent)]
    train = [d for d in documents if not is_held_out(d.key, options.held_out_percent)]
    chats = function_chats([d.text for d in train if d.path.endswith(".py")])
    chats += tool_chats(options.tool_chats)
    train += [Document(f"chat/{index}", text) for index, text in enumerate(chats)]
    write_lines(options.out / "train.jsonl", train)
    write_lines(options.out / "heldout.jsonl", held_out)


if __name__ == "__main__":
    main()
