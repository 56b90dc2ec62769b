"""When a window of layers is captured. Knows no device."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

Mode = Literal["prefill", "decode"]


@dataclass(frozen=True)
class Window:
    """Which layers of which step.

    Prefill: `n_layers` (at least 1) from `layer` on, of chunk `chunk` of a prompt. Decode: the one
    layer `layer`, after `token` tokens.
    """

    mode: Mode = "prefill"
    chunk: int = 0
    layer: int = 0
    n_layers: int = 2
    token: int = 10

    @property
    def end(self) -> int:
        """The layer after the last one."""
        return self.layer + (max(1, self.n_layers) if self.mode == "prefill" else 1)

    def __str__(self) -> str:
        last = self.end - 1
        layers = f"layer {last}" if last == self.layer else f"layers {self.layer} to {last}"
        if self.mode == "prefill":
            return f"{layers} of prompt chunk {self.chunk}"
        return f"{layers} of the token after {self.token}"


class Action(Enum):
    """What is to be done with the capture before a layer."""

    NONE = auto()
    START = auto()
    STOP = auto()


class _State(Enum):
    WAITING = auto()
    """For its step."""
    ARMED = auto()
    """In its step, before its first layer."""
    OPEN = auto()
    DONE = auto()


class CaptureWindow:
    """One window's way from waiting for its step to done, which it is once and stays."""

    def __init__(self, window: Window, n_layers: int) -> None:
        """A model of `n_layers` layers; a window past its end closes after the last one."""
        self._window = window
        self._end = min(window.end, n_layers)
        self._state = _State.WAITING if window.layer < n_layers else _State.DONE
        self._next_chunk = 0
        self._tokens_left = window.token

    @property
    def armed(self) -> bool:
        """The step under way has the window, whole or in part."""
        return self._state in (_State.ARMED, _State.OPEN)

    @property
    def done(self) -> bool:
        return self._state is _State.DONE

    def begin_prompt(self, chunk: int = 0) -> None:
        """The next chunk is number `chunk` of a prompt."""
        self._next_chunk = chunk

    def begin_chunk(self) -> bool:
        """A chunk begins: whether it has the window."""
        chunk = self._next_chunk
        self._next_chunk += 1
        if self._state is _State.WAITING and self._window.mode == "prefill":
            self._state = _State.ARMED if chunk == self._window.chunk else _State.WAITING
        return self.armed

    def begin_token(self) -> bool:
        """A decode step begins: whether it has the window, which is true once."""
        if self._state is _State.WAITING and self._window.mode == "decode":
            self._state = _State.ARMED if self._tokens_left == 0 else _State.WAITING
            self._tokens_left -= 1
        return self.armed

    def at_layer(self, index: int) -> Action:
        """What to do before layer `index`, or after the last one with the number of layers."""
        if self._state is _State.ARMED and index == self._window.layer:
            self._state = _State.OPEN
            return Action.START
        if self._state is _State.OPEN and index >= self._end:
            self._state = _State.DONE
            return Action.STOP
        return Action.NONE

    def abandon(self) -> Action:
        """The step ended early, or the capture could not start: what is left to do."""
        action = Action.STOP if self._state is _State.OPEN else Action.NONE
        if self.armed:
            self._state = _State.DONE
        return action
