"""What a generated text has to be: the interface of constraints. Knows no grammar."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Constraint(Protocol):
    """Texts that are allowed; any number of generations may start under one, also at once."""

    def start(self) -> ConstraintRun:
        """The constraint before the first token of one generation."""


class ConstraintRun(Protocol):
    """One generation under a constraint."""

    @property
    def ended(self) -> bool:
        """The text is complete, and nothing may follow."""

    def allowed(self, vocabulary: int) -> NDArray[np.bool_]:
        """Which tokens may come next, [V].

        End-of-sequence ids are among them where the text may end. Raises ConstraintError where
        that is too much to find out.
        """

    def accept(self, token_id: int) -> None:
        """Go on with one of the allowed tokens. Raises ConstraintError for another."""
