"""What a program nobody here wrote computes for a prompt, and the comparison with moeflux."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moeflux import Session

TOLERANCE = 2e-4
"""Largest difference of two logits of standard deviation 1.5, all arithmetic in float32."""

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Expected:
    """A prompt, its logits and its greedy continuation."""

    prompt: list[int]
    positions: list[int]
    """The prompt tokens whose logits are kept."""
    logits: Float32Array
    """[positions, V]"""
    greedy: list[int]

    def save(self, path: Path, checkpoint_digest: str) -> None:
        """A golden: this, and the digest of the tensors that it belongs to."""
        np.savez_compressed(
            path,
            prompt=np.array(self.prompt, np.int32),
            positions=np.array(self.positions, np.int32),
            logits=self.logits.astype(np.float32),
            greedy=np.array(self.greedy, np.int32),
            checkpoint_digest=np.array(checkpoint_digest),
        )

    @classmethod
    def load(cls, path: Path) -> tuple[Expected, str]:
        """A golden and the digest of its checkpoint."""
        with np.load(path) as golden:
            expected = cls(
                golden["prompt"].tolist(),
                golden["positions"].tolist(),
                golden["logits"],
                golden["greedy"].tolist(),
            )
            return expected, str(golden["checkpoint_digest"])


def assert_whole_prompt_agrees(session: Session, expected: Expected) -> None:
    session.reset()
    got = session.prefill_all_logits(expected.prompt)
    assert_close(got[expected.positions], expected)


def assert_each_token_agrees(session: Session, expected: Expected) -> None:
    session.reset()
    rows = [session.decode(token) for token in expected.prompt]
    assert_close(np.stack(rows)[expected.positions], expected)


def assert_greedy_tokens_agree(session: Session, expected: Expected) -> None:
    session.reset()
    assert greedy(session, expected.prompt, len(expected.greedy)) == expected.greedy


def greedy(session: Session, prompt: Sequence[int], n_tokens: int) -> list[int]:
    """The most likely continuation of a prompt."""
    tokens = [int(session.prefill(prompt).argmax())]
    while len(tokens) < n_tokens:
        tokens.append(int(session.decode(tokens[-1]).argmax()))
    return tokens


def assert_close(got: Float32Array, expected: Expected) -> None:
    assert got.shape == expected.logits.shape
    assert got.dtype == np.float32
    difference = np.abs(got - expected.logits)
    row, token = np.unravel_index(difference.argmax(), difference.shape)
    # Written so that a NaN fails too.
    assert difference.max() <= TOLERANCE, (
        f"after prompt token {expected.positions[row]} the logit of token {token} is "
        f"{got[row, token]}, expected {expected.logits[row, token]}; "
        f"largest difference of each position: {difference.max(1)}"
    )
