"""The decode step: one token through all layers. Knows no architecture, no sampling and no text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from moeflux._core import Recording, Step
from moeflux.blocks.decoder import (
    DecoderLayer,
    LayerState,
    hidden,
    normed,
    router_logits,
)
from moeflux.blocks.moe import Routing, SparseMoe
from moeflux.blocks.workspace import Float32Array, float32_array, int32_array
from moeflux.engine.runtime import Runtime
from moeflux.engine.state import SequenceState


@dataclass(frozen=True)
class LayerRecordings:
    """A layer's kernels bound once: the mixer half and, where it has experts, the expert half."""

    index: int
    mixer: Recording
    sparse: SparseRecordings | None


@dataclass(frozen=True)
class SparseRecordings:
    """The expert half, the router logits [1, E] it waits for, and the next layer's router."""

    moe: SparseMoe
    experts: Recording
    router_logits: Float32Array
    next_layer: NextRouter | None


@dataclass(frozen=True)
class NextRouter:
    """The router of a later layer applied to this layer's state: logits [1, E]."""

    index: int
    moe: SparseMoe
    logits: Float32Array


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
            self._record(layer, layer_state)
            for layer, layer_state in zip(decoder.layers, state.layers, strict=True)
        ]
        self._head = device.record()
        decoder.encode_logits(self._head, hidden(work, decoder.width), logits, work)

    def __call__(self, token_id: int, position: int) -> Float32Array:
        """Logits [V] that follow `token_id` at `position`; the states advance by one token."""
        runtime, step = self._runtime, Step(position, 1)
        runtime.files.check()
        experts, table = runtime.experts, runtime.decode_table
        started = time.perf_counter()
        if (routes := runtime.routes) is not None:
            routes.begin(position, prefill=False)
        experts.begin_token()
        self._tokens[0] = token_id
        commands = runtime.command_buffer(step, "embedding")
        commands.replay(self._embedding)
        for layer in self._layers:
            commands.replay(layer.mixer)
            if layer.sparse is None:
                continue
            runtime.finish(commands)
            experts.release_all()
            routing, guessed = self._route(layer.index, layer.sparse)
            if routes is not None:
                routes.route(routing.experts, guessed)
            slots = experts.fetch(layer.index, routing.experts[0].tolist())
            table.set_routing(routing, slots)
            commands = runtime.command_buffer(step, f"layer {layer.index} experts")
            commands.replay(layer.sparse.experts)
            runtime.commit(commands)
            commands = runtime.command_buffer(step, f"layer {layer.index + 1} mixer")
        commands.replay(self._head)
        runtime.finish(commands)
        experts.end_token(time.perf_counter() - started)
        if routes is not None:
            routes.end()
        runtime.add_span("steps", f"decode position {position}", started)
        return self._logits.copy()

    def _route(self, index: int, sparse: SparseRecordings) -> tuple[Routing, Sequence[int]]:
        """A layer's routing, and what the next layer's router guesses, which prefetch is told."""
        started = time.perf_counter()
        routing, guessed = sparse.moe.route(sparse.router_logits), []
        if (guess := sparse.next_layer) is not None:
            guessed = guess.moe.best(guess.logits)
            self._runtime.experts.offer(guess.index, guessed)
        self._runtime.add_span("router", f"layer {index} router", started)
        return routing, guessed

    def _record(self, layer: DecoderLayer, state: LayerState) -> LayerRecordings:
        runtime = self._runtime
        work, table = runtime.decode_work, runtime.decode_table
        mixer = runtime.device.record()
        layer.encode_mixer(mixer, state, work)
        if not isinstance(layer.mlp, SparseMoe):
            return LayerRecordings(layer.index, mixer, None)
        next_layer = self._record_next_router(mixer, layer)
        experts = runtime.device.record()
        layer.encode_moe(experts, table.batch, table.weights, work)
        n_experts = layer.mlp.n_experts
        logits = float32_array(router_logits(work, n_experts).buffer, 1, n_experts)
        return LayerRecordings(
            layer.index, mixer, SparseRecordings(layer.mlp, experts, logits, next_layer)
        )

    def _record_next_router(self, mixer: Recording, layer: DecoderLayer) -> NextRouter | None:
        """Behind the mixer half, where prefetch asks for it and a later layer has experts."""
        runtime = self._runtime
        if not (runtime.experts.wants_offers or runtime.records_guesses):
            return None
        for later in runtime.decoder.layers[layer.index + 1 :]:
            if isinstance(later.mlp, SparseMoe):
                work, n_experts = runtime.decode_work, later.mlp.n_experts
                logits = work.rows("next_router_logits", n_experts, host=True)
                later.mlp.encode_router(mixer, normed(work, runtime.decoder.width), logits)
                array = float32_array(logits.buffer, 1, n_experts)
                return NextRouter(later.index, later.mlp, array)
        return None
