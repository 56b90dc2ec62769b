"""The decode step: one token through all layers. Knows no architecture, no sampling and no text."""

from __future__ import annotations

from dataclasses import dataclass

from moeflux._core import Recording, Step
from moeflux.blocks.decoder import DecoderLayer, LayerState, hidden, router_logits
from moeflux.blocks.moe import SparseMoe
from moeflux.blocks.workspace import Float32Array, float32_array, int32_array
from moeflux.engine.runtime import Runtime
from moeflux.engine.state import SequenceState


@dataclass(frozen=True)
class LayerRecordings:
    """A layer's kernels bound once: the mixer half and, where it has experts, the expert half."""

    index: int
    moe: SparseMoe | None
    mixer: Recording
    experts: Recording | None


class DecodeStep:
    """One session's decode step, recorded at construction and replayed for each token."""

    def __init__(self, runtime: Runtime, state: SequenceState) -> None:
        self._runtime = runtime
        work, decoder, device = runtime.decode_work, runtime.decoder, runtime.device
        tokens = device.buffer(4, host=True)
        logits = work.rows("logits", decoder.vocabulary, host=True)
        self._tokens = int32_array(tokens, 1)
        self._logits = float32_array(logits.buffer, decoder.vocabulary)
        self._embedding = device.record()
        decoder.encode_embedding(self._embedding, tokens, work)
        self._layers = [
            self._record(*pair) for pair in zip(decoder.layers, state.layers, strict=True)
        ]
        self._head = device.record()
        decoder.encode_logits(self._head, hidden(work, decoder.width), logits, work)

    def __call__(self, token_id: int, position: int) -> Float32Array:
        """Logits [V] that follow `token_id` at `position`; the states advance by one token."""
        runtime, step = self._runtime, Step(position, 1)
        runtime.files.check()
        experts, table = runtime.experts, runtime.decode_table
        self._tokens[0] = token_id
        commands = runtime.queue.command_buffer(step, "embedding")
        commands.replay(self._embedding)
        for layer in self._layers:
            commands.replay(layer.mixer)
            if layer.moe is None or layer.experts is None:
                continue
            runtime.finish(commands)
            experts.release_all()
            routing = layer.moe.route(self._router_logits(layer.moe))
            slots = experts.fetch(layer.index, routing.experts[0].tolist())
            table.set_routing(routing, slots)
            commands = runtime.queue.command_buffer(step, f"layer {layer.index}")
            commands.replay(layer.experts)
            commands.commit()
            commands = runtime.queue.command_buffer(step, f"layer {layer.index + 1}")
        commands.replay(self._head)
        runtime.finish(commands)
        experts.release_all()
        return self._logits.copy()

    def _record(self, layer: DecoderLayer, state: LayerState) -> LayerRecordings:
        runtime = self._runtime
        work, table = runtime.decode_work, runtime.decode_table
        mixer = runtime.device.record()
        layer.encode_mixer(mixer, state, work)
        if not isinstance(layer.mlp, SparseMoe):
            return LayerRecordings(layer.index, None, mixer, None)
        experts = runtime.device.record()
        layer.encode_moe(experts, table.batch, table.weights, work)
        return LayerRecordings(layer.index, layer.mlp, mixer, experts)

    def _router_logits(self, moe: SparseMoe) -> Float32Array:
        logits = router_logits(self._runtime.decode_work, moe.n_experts)
        return float32_array(logits.buffer, 1, moe.n_experts)
