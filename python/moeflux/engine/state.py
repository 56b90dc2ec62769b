"""What a session remembers between tokens: the state of every layer and the position."""

from __future__ import annotations

from dataclasses import dataclass

from moeflux._core import Device, Queue, Step
from moeflux.blocks.decoder import Decoder, LayerState
from moeflux.blocks.gated_delta_net import DeltaNetState


@dataclass
class SequenceState:
    """Layer states up to `position` tokens of at most `context`."""

    layers: tuple[LayerState, ...]
    context: int
    position: int = 0

    @classmethod
    def empty(cls, decoder: Decoder, device: Device, context: int) -> SequenceState:
        return cls(decoder.new_state(device, context), context)

    def reset(self, queue: Queue) -> None:
        """Forget every token.

        Keys and values beyond the position are never read, so only recurrent states are zeroed.
        """
        commands = queue.command_buffer(Step(0, 1), "reset")
        for layer in self.layers:
            if isinstance(layer, DeltaNetState):
                commands.zero(layer.convolution)
                commands.zero(layer.recurrent)
        commands.commit()
        commands.wait()
        self.position = 0
