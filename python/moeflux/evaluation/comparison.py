"""How far the predictions of one checkpoint are from those of another of the same model.

Kullback and Leibler: D(P || Q) = sum over tokens of p (log p - log q), with P the first checkpoint.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from moeflux.blocks.workspace import Float32Array
from moeflux.engine.budget import MemoryCapError
from moeflux.engine.model import Model
from moeflux.engine.placement import DEFAULT_SHARE_OF_AVAILABLE_MEMORY
from moeflux.evaluation.source import ModelSource, NoRoomError
from moeflux.evaluation.vocabulary import Vocabulary, check_same_vocabulary
from moeflux.evaluation.windows import (
    Float64Array,
    Piece,
    Progress,
    Windows,
    blocks,
    log_probabilities,
    mean_and_error,
    piece_nbytes,
    pieces,
    windows_of,
)
from moeflux.memory import available_memory, format_size, parse_size, resident_memory

PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)


@dataclass(frozen=True)
class Divergence:
    """D(P || Q) in nats over the scored tokens of a text, P the first model, Q the other."""

    mean: float
    standard_error: float
    """Of the mean, tokens taken as independent."""
    percentiles: dict[float, float]
    """By percentage of the tokens: PERCENTILES."""
    top_1_agreement: float
    """Share of tokens where the most probable token is the same."""
    nats_per_token: tuple[float, float]
    """Mean of -log p(token), of the first model and of the other."""
    n_tokens: int
    window_size: int
    stride: int

    def as_dict(self) -> dict[str, Any]:
        """Fields, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Scores:
    """Of each scored token, filled from the front."""

    divergence: Float64Array
    nats: Float64Array
    """[2, T]: -log p of the token under the first model and under the other."""
    agrees: NDArray[np.bool_]
    """The most probable token is the same."""

    @classmethod
    def empty(cls, n_tokens: int) -> _Scores:
        return cls(np.empty(n_tokens), np.empty((2, n_tokens)), np.empty(n_tokens, np.bool_))

    def score(self, first: int, logits: Float32Array, other: Piece) -> None:
        """Fill in the tokens from `first` on: `logits` of the first model against a piece."""
        for rows in blocks(len(logits)):
            place = slice(first + rows.start, first + rows.stop)
            p, q = log_probabilities(logits[rows]), log_probabilities(other.logits[rows])
            self.divergence[place] = (np.exp(p) * (p - q)).sum(axis=1)
            self.agrees[place] = p.argmax(axis=1) == q.argmax(axis=1)
            target = other.targets[rows, None]
            for index, logs in enumerate((p, q)):
                self.nats[index, place] = -np.take_along_axis(logs, target, axis=1)[:, 0]

    def summary(self, windows: Windows) -> Divergence:
        mean, error = mean_and_error(self.divergence)
        values = np.percentile(self.divergence, PERCENTILES)
        return Divergence(
            mean=mean,
            standard_error=error,
            percentiles=dict(zip(PERCENTILES, map(float, values), strict=True)),
            top_1_agreement=float(self.agrees.mean()),
            nats_per_token=(float(self.nats[0].mean()), float(self.nats[1].mean())),
            n_tokens=len(self.agrees),
            window_size=windows.size,
            stride=windows.stride,
        )


def divergence(
    model: Model,
    other: Model,
    text: str,
    *,
    window_size: int | None = None,
    stride: int | None = None,
    progress: Progress | None = None,
) -> Divergence:
    """Compare `other` with `model` on a text, both loaded.

    Arguments and errors as in perplexity, and DifferentVocabularyError.
    """
    check_same_vocabulary(Vocabulary.of(model), Vocabulary.of(other), text)
    windows = windows_of(model, text, window_size, stride)
    pairs = zip(pieces(model, windows), pieces(other, windows), strict=True)
    return _compared(((piece.logits, second) for piece, second in pairs), windows, progress)


def compare_checkpoints(
    source: ModelSource,
    other: ModelSource,
    text: str,
    *,
    window_size: int | None = None,
    stride: int | None = None,
    progress: Progress | None = None,
) -> Divergence:
    """The same from checkpoints, within the memory of `source`.

    Both are loaded where it has room for them. Otherwise one after the other, the logits of the
    first in a temporary file. Errors as in divergence and loading, and NoRoomError.
    """
    vocabulary = Vocabulary.of_folder(source.folder)
    check_same_vocabulary(vocabulary, Vocabulary.of_folder(other.folder), text)
    reserved = piece_nbytes(vocabulary.n_logits)
    with ExitStack() as stack:
        try:
            model, second = _load_both(source, other, reserved, stack)
        except MemoryCapError:
            stack.close()
        else:
            return divergence(
                model, second, text, window_size=window_size, stride=stride, progress=progress
            )
    with tempfile.TemporaryFile() as file:
        with source.load(reserved) as model:
            windows = windows_of(model, text, window_size, stride)
            _check_room(Path(tempfile.gettempdir()), 4 * windows.n_scored * vocabulary.n_logits)
            _store(pieces(model, windows), file, _half(progress, windows, 0))
        file.seek(0)
        with other.load(reserved) as second:
            pairs = _beside_stored(file, pieces(second, windows))
            return _compared(pairs, windows, _half(progress, windows, windows.n_scored))


def _load_both(
    source: ModelSource, other: ModelSource, reserved: int, stack: ExitStack
) -> tuple[Model, Model]:
    """Half of the room for each. Raises MemoryCapError where that is too little."""
    if source.memory is not None:
        room = parse_size(source.memory) - resident_memory()
    else:
        room = int(DEFAULT_SHARE_OF_AVAILABLE_MEMORY * available_memory())
    half = max(1, (room - 2 * reserved) // 2)
    # What the process holds counts as part of a cap, so that the second one's is set anew.
    model = stack.enter_context(replace(source, memory=resident_memory() + half).load())
    return model, stack.enter_context(replace(other, memory=resident_memory() + half).load())


def _compared(
    pairs: Iterable[tuple[Float32Array, Piece]], windows: Windows, progress: Progress | None
) -> Divergence:
    """Of logits of the first model and pieces of the other."""
    scores = _Scores.empty(windows.n_scored)
    n_scored = 0
    for logits, piece in pairs:
        scores.score(n_scored, logits, piece)
        n_scored += len(logits)
        if progress is not None:
            progress(n_scored, windows.n_scored, float(scores.divergence[:n_scored].mean()))
    return scores.summary(windows)


def _check_room(folder: Path, nbytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise NoRoomError(
            f"memory has no room for both models, and {folder} has {format_size(free)} free for "
            f"the {format_size(nbytes)} of logits of one: wanted more memory or a shorter text"
        )


def _store(of_first: Iterable[Piece], file: IO[bytes], progress: Progress | None) -> None:
    n_scored = 0
    for piece in of_first:
        file.write(np.ascontiguousarray(piece.logits).data)
        n_scored += len(piece.targets)
        if progress is not None:
            progress(n_scored, 0, None)


def _beside_stored(
    file: IO[bytes], of_second: Iterable[Piece]
) -> Iterator[tuple[Float32Array, Piece]]:
    """Each piece with the logits that the file has for it."""
    for piece in of_second:
        data = file.read(piece.logits.nbytes)
        yield np.frombuffer(data, np.float32).reshape(piece.logits.shape), piece


def _half(progress: Progress | None, windows: Windows, done: int) -> Progress | None:
    """Progress of one of two passes over the windows, `done` tokens before it."""
    if progress is None:
        return None
    tell = progress
    return lambda n, _, mean: tell(done + n, 2 * windows.n_scored, mean)
