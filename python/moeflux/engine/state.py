"""What a session remembers between tokens: the state of every layer, and the tokens behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from moeflux._core import Buffer, Device, Queue, Step
from moeflux.blocks.decoder import Decoder, LayerState
from moeflux.blocks.workspace import Float32Array
from moeflux.engine.runtime import Runtime
from moeflux.engine.state_budget import Reservation
from moeflux.engine.transcript import Transcript


@dataclass(frozen=True, eq=False)
class StateCheckpoint:
    """What it takes to come back to `position`, beside the rows below it, which stay as they are.

    `recurrent` are copies that nobody writes to, so that forks share them.
    """

    position: int
    recurrent: tuple[Buffer, ...]
    logits: Float32Array | None
    reservation: Reservation


@dataclass(eq=False)
class SequenceState:
    """Layer states after the tokens of `transcript`, at most `context` of them."""

    layers: tuple[LayerState, ...]
    context: int
    reservation: Reservation | None = None
    """Of its bytes, where they are counted."""
    transcript: Transcript = field(default_factory=Transcript)
    logits: Float32Array | None = None
    """Float32 [V] after the last token, where they are known; checkpoints and forks share them."""

    @classmethod
    def empty(cls, decoder: Decoder, device: Device, context: int) -> SequenceState:
        return cls(decoder.new_state(device, context), context)

    @property
    def position(self) -> int:
        """Number of tokens seen."""
        return len(self.transcript)

    def row_parts(self, first: int, end: int) -> dict[str, Buffer]:
        """The rows of the positions first .. end - 1 by name."""
        parts: dict[str, Buffer] = {}
        for index, layer in enumerate(self.layers if first < end else ()):
            for n, rows in enumerate(layer.position_rows):
                nbytes = rows.nbytes // self.context
                view = rows.view(nbytes * first, nbytes * (end - first))
                parts[f"layer {index} rows {n}"] = view
        return parts

    def recurrent_parts(self) -> dict[str, Buffer]:
        """What every token changes as a whole by name."""
        return {
            f"layer {index} recurrent part {n}": part
            for index, layer in enumerate(self.layers)
            for n, part in enumerate(layer.recurrent_parts)
        }

    def parts(self, first: int, end: int) -> dict[str, Buffer]:
        """What the state at position `end` consists of, with rows from `first` on."""
        return self.row_parts(first, end) | self.recurrent_parts()

    def reset(self, queue: Queue) -> None:
        """Forget every token.

        Rows at and beyond the position are never read, so only recurrent parts are zeroed.
        """
        commands = queue.command_buffer(Step(0, 1), "reset")
        for part in self.recurrent_parts().values():
            commands.zero(part)
        commands.commit()
        commands.wait()
        self.transcript = Transcript()
        self.logits = None

    def add_prompt(self, token_ids: Sequence[int]) -> None:
        """The layer states have advanced by tokens of a prompt."""
        self.transcript.add_prompt(token_ids)
        self.logits = None

    def add_decoded(self, token_id: int) -> None:
        """The layer states have advanced by a decoded token."""
        self.transcript.add_decoded(token_id)
        self.logits = None

    def keep_logits(self, logits: Float32Array) -> Float32Array:
        """Remember the logits after the last token, and make them read only."""
        logits.flags.writeable = False
        self.logits = logits
        return logits

    def checkpoint(self, runtime: Runtime) -> StateCheckpoint:
        """A copy of what the next token will change. Raises SessionMemoryError."""
        parts = list(self.recurrent_parts().values())
        nbytes = sum(part.nbytes for part in parts)
        logits_nbytes = 0 if self.logits is None else self.logits.nbytes
        what = f"a checkpoint at position {self.position}"
        reservation = runtime.states.reserve(what, nbytes + logits_nbytes)
        copies: list[Buffer] = []
        if parts:
            whole, offset = runtime.device.buffer(nbytes), 0
            for part in parts:
                copies.append(whole.view(offset, part.nbytes))
                offset += part.nbytes
            _copy(runtime.queue, parts, copies, "checkpoint")
        return StateCheckpoint(self.position, tuple(copies), self.logits, reservation)

    def rewind(self, queue: Queue, checkpoint: StateCheckpoint) -> None:
        """Back to an earlier position of this sequence, or of one that it was forked from."""
        parts = list(self.recurrent_parts().values())
        _copy(queue, checkpoint.recurrent, parts, "rewind")
        self.transcript.truncate(checkpoint.position)
        self.logits = checkpoint.logits

    def truncate_rows(self, position: int) -> None:
        """Forget the tokens from `position` on, where no layer has recurrent parts."""
        self.transcript.truncate(position)
        self.logits = None

    def copy_from(self, queue: Queue, other: SequenceState) -> None:
        """Become equal to `other`, of the same model, whose tokens fit."""
        sources, destinations = (
            list(state.parts(0, other.position).values()) for state in (other, self)
        )
        _copy(queue, sources, destinations, "fork")
        self.transcript, self.logits = other.transcript.copy(), other.logits


def new_state(runtime: Runtime, context_size: int) -> SequenceState:
    """An empty state for `context_size` positions, counted under the memory cap.

    Raises ValueError beyond the model's own limit, SessionMemoryError.
    """
    limit = runtime.context_limit or context_size
    if not 1 <= context_size <= limit:
        raise ValueError(f"context_size must be 1 .. {limit} for this model, got {context_size}")
    what = f"a session of {context_size} positions"
    reservation = runtime.states.reserve(what, runtime.decoder.state_nbytes(context_size))
    state = SequenceState.empty(runtime.decoder, runtime.device, context_size)
    state.reservation = reservation
    return state


def _copy(
    queue: Queue, sources: Sequence[Buffer], destinations: Sequence[Buffer], label: str
) -> None:
    commands = queue.command_buffer(Step(0, 1), label)
    for source, destination in zip(sources, destinations, strict=True):
        commands.copy(source, destination)
    commands.commit()
    commands.wait()
