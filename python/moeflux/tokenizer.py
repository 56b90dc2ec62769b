"""Text to token ids and back, by the tokenizer of a checkpoint. Knows no model and no messages.

Control tokens are those that steer a model: the ones that the tokenizer marks as special
(<|im_end|>) and the ones that the chat template writes although they are not marked (<think>,
<tool_call>). The text of users never becomes one: `encode` takes their spelling as plain text
unless `allow_special` asks otherwise. One backend does both, switched under a lock: while its
`encode_special_tokens` is set it looks for no special token in its input. Control tokens without
the mark are registered as special in the backend, so that the switch covers them; `decode` keeps
to the checkpoint's own marks.
"""

from __future__ import annotations

import codecs
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from moeflux.checkpoint.tokenizer_files import TokenizerFiles, read_tokenizer_files
from moeflux.errors import CheckpointError

# Word-like and blank added tokens are vocabulary, however often a template writes them.
_MARKUP = re.compile(r"[^\w\s]\S*")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class Tokenizer:
    """The tokenizer of one checkpoint. Usable from several threads.

    named_tokens: role to text ("eos_token" to "<|im_end|>").
    special_tokens: text to id of those that the checkpoint marks as special.
    control_tokens: these and the unmarked ones that the chat template writes.
    chat_templates: name to source.
    eos_token_ids: what ends a text: the generation configuration's and the named eos_token.
    bos_token_id: what the checkpoint wants in front of a raw prompt, or None.
    vocab_size: the highest id + 1.
    """

    def __init__(self, backend: tokenizers.Tokenizer, files: TokenizerFiles) -> None:
        """Wrap a backend, which is this tokenizer's own from then on.

        Raises CheckpointError for a named token that the backend does not have, and for a decoder
        that is neither byte-level nor SentencePiece with byte fallback.
        """
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._lock = threading.Lock()
        self._to_bytes, self._drops_first_space = _token_bytes_of(backend)
        self.named_tokens = dict(files.named_tokens)
        self.chat_templates = dict(files.chat_templates)

        added = backend.get_added_tokens_decoder()
        sources = "".join(self.chat_templates.values())
        unmarked = {
            token_id: token
            for token_id, token in added.items()
            if not token.special and _MARKUP.fullmatch(token.content) and token.content in sources
        }
        self.special_tokens = {token.content: i for i, token in added.items() if token.special}
        self.control_tokens = self.special_tokens | {
            token.content: token_id for token_id, token in unmarked.items()
        }
        self._special_ids = frozenset(self.special_tokens.values())
        self._control_ids = frozenset(self.control_tokens.values())
        backend.add_special_tokens(list(unmarked.values()))

        n_ordinary = backend.get_vocab_size(with_added_tokens=False)
        self.vocab_size = max(n_ordinary, max(added, default=-1) + 1)
        eos = self.named_tokens.get("eos_token")
        self.eos_token_ids = frozenset(files.eos_token_ids) | ({self._id_of(eos)} if eos else set())
        self.bos_token_id = self._find_bos(files.add_bos)

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Read the tokenizer of a checkpoint folder.

        Raises CheckpointError for a missing, damaged or unsupported tokenizer.
        """
        files = read_tokenizer_files(Path(folder))
        try:
            backend = tokenizers.Tokenizer.from_file(str(files.path))
        except Exception as error:  # the backend raises nothing more specific
            raise CheckpointError(f"{files.path}: wanted a tokenizer: {error}") from error
        try:
            _add_listed_tokens(backend, files)
            return cls(backend, files)
        except CheckpointError as error:
            raise CheckpointError(f"{files.path}: {error}") from error

    def vocabulary(self) -> dict[str, int]:
        """Every token's name, as the tokenizer writes it, and its id."""
        names: dict[str, int] = self._backend.get_vocab(with_added_tokens=True)
        return names

    def encode(self, text: str, *, allow_special: bool = False, add_bos: bool = False) -> list[int]:
        """Token ids of `text`.

        allow_special: the spelling of a control token in `text` becomes that token, not plain text.
        add_bos: start with bos_token_id, if there is one.
        Raises ValueError for text that is not valid Unicode (lone surrogates).
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text must be valid Unicode, got a surrogate at character {error.start}"
            ) from error
        first = [self.bos_token_id] if add_bos and self.bos_token_id is not None else []
        if allow_special:
            return first + self._encode(text, plain=False).ids
        return first + self._encode_plain(text)

    def decode(self, token_ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of `token_ids`; bytes that are not UTF-8 become U+FFFD.

        skip_special: leave out the tokens that the checkpoint marks as special. An id without a
        token stands for nothing. Raises ValueError for a negative id.
        """
        detokenizer = self.detokenizer(skip_special=skip_special)
        return "".join(map(detokenizer.add, token_ids)) + detokenizer.finish()

    def detokenizer(self, *, skip_special: bool = True, exact: bool = False) -> Detokenizer:
        """Start to decode a sequence of tokens one by one; skip_special as in decode.

        exact: keep a space that begins the text also where the tokenizer drops it.
        """
        left_out = self._special_ids if skip_special else frozenset()
        drop_space = self._drops_first_space and not exact
        return Detokenizer(self.token_bytes, left_out, drop_space=drop_space)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for: of an added token, its spelling.

        Empty for an id without a token, as models round their vocabulary up. Raises ValueError for
        a negative id.
        """
        if token_id < 0:
            raise ValueError(f"a token id must not be negative, got {token_id}")
        token = self._backend.id_to_token(token_id)
        return b"" if token is None else self._to_bytes(token)

    def _encode(self, text: str, *, plain: bool) -> tokenizers.Encoding:
        with self._lock:
            self._backend.encode_special_tokens = plain
            return self._backend.encode(text, add_special_tokens=False)

    def _encode_plain(self, text: str) -> list[int]:
        """Encode without control tokens.

        A vocabulary may list a control token as an ordinary piece too (Unigram and WordLevel
        models), where the switch does not reach. The text is then cut within the spelling.
        """
        token_ids: list[int] = []
        while True:
            encoding = self._encode(text, plain=True)
            cut = None
            if not self._control_ids.isdisjoint(encoding.ids):
                cut = self._within_control_token(encoding, text)
            if cut is None:
                return token_ids + encoding.ids
            token_ids += self._encode_plain(text[:cut])
            text = text[cut:]

    def _within_control_token(self, encoding: tokenizers.Encoding, text: str) -> int | None:
        """A character inside the first control token that is spelled in `text`, if there is one."""
        for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            spelling = text[start:end].strip()
            if self.control_tokens.get(spelling) == token_id:
                if len(spelling) < 2:
                    raise CheckpointError(f"the tokenizer has no plain spelling of {spelling!r}")
                return start + text[start:end].index(spelling) + 1
        return None

    def _id_of(self, token: str) -> int:
        token_id = self._backend.token_to_id(token)
        if token_id is None:
            raise CheckpointError(f"the tokenizer has no token {token!r}")
        return token_id

    def _find_bos(self, add_bos: bool | None) -> int | None:
        """The named bos_token if the files want it; if they do not say, what the backend puts."""
        named = self.named_tokens.get("bos_token")
        if add_bos is not None:
            return self._id_of(named) if add_bos and named else None
        bare = self._backend.encode("a", add_special_tokens=False).ids
        processed = self._backend.encode("a", add_special_tokens=True).ids
        return None if processed[: len(bare)] == bare else processed[0]


class Detokenizer:
    """Text of a growing sequence of tokens.

    The pieces from `add` and the rest from `finish` are together the text of the whole sequence. A
    character whose bytes are spread over several tokens comes with the last of them. A token costs
    time in its own length only.
    """

    def __init__(
        self, token_bytes: Callable[[int], bytes], left_out: frozenset[int], *, drop_space: bool
    ) -> None:
        self._token_bytes = token_bytes
        self._left_out = left_out
        self._drop_space = drop_space
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token_id: int) -> str:
        """Text that the next token completes; may be empty. Raises ValueError for a negative id."""
        if token_id in self._left_out:
            return ""
        token = self._token_bytes(token_id)
        if self._drop_space and token:
            self._drop_space = False
            token = token.removeprefix(b" ")
        return self._decoder.decode(token)

    def finish(self) -> str:
        """U+FFFD if the sequence ends within a character, else nothing."""
        return self._decoder.decode(b"", final=True)


def _add_listed_tokens(backend: tokenizers.Tokenizer, files: TokenizerFiles) -> None:
    """Add the tokens that only tokenizer_config.json lists, and check that ids agree."""
    for token_id, fields in files.added_tokens.items():
        token = _added_token(fields)
        if backend.token_to_id(token.content) is None:
            (backend.add_special_tokens if token.special else backend.add_tokens)([token])
        found = backend.token_to_id(token.content)
        if found != token_id:
            raise CheckpointError(
                f"token {token.content!r} has id {found}, tokenizer_config.json gives it {token_id}"
            )


def _added_token(fields: Mapping[str, object]) -> tokenizers.AddedToken:
    flags = ("lstrip", "rstrip", "single_word", "normalized", "special")
    return tokenizers.AddedToken(
        str(fields["content"]), **{flag: fields[flag] is True for flag in flags if flag in fields}
    )


def _token_bytes_of(backend: tokenizers.Tokenizer) -> tuple[Callable[[str], bytes], bool]:
    """How a token's name tells its bytes, and whether the space that begins a text is dropped."""
    decoder = backend.decoder
    state: dict[str, Any] = json.loads(decoder.__getstate__()) if decoder else {"type": "none"}
    steps = state["decoders"] if state["type"] == "Sequence" else [state]
    kinds = {step["type"] for step in steps}
    if kinds == {"ByteLevel"}:
        return _byte_level(), False
    if "ByteFallback" in kinds and kinds <= {"ByteFallback", "Replace", "Fuse", "Strip"}:
        return _byte_fallback, "Strip" in kinds
    raise CheckpointError(
        f"tokenizer decoder {' + '.join(sorted(kinds))} is not supported; "
        "ByteLevel and SentencePiece with ByteFallback are"
    )


def _byte_level() -> Callable[[str], bytes]:
    """Byte-level BPE names printable Latin-1 bytes by themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet |= {chr(0x100 + n): byte for n, byte in enumerate(others)}

    def token_bytes(token: str) -> bytes:
        # Added tokens with characters outside the alphabet, such as spaces, spell themselves.
        if alphabet.keys() >= set(token):
            return bytes(map(alphabet.__getitem__, token))
        return token.encode()

    return token_bytes


def _byte_fallback(token: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("\u2581", " ").encode()
