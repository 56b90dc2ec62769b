"""The decode step: one token through all layers. Knows no architecture, no sampling and no text."""

from __future__ import annotations

import time
from dataclasses import dataclass

from moeflux._core import CommandBuffer, Recording, Step
from moeflux.blocks.decoder import DecoderLayer, LayerState, routed_experts
from moeflux.blocks.moe import SparseMoe
from moeflux.blocks.workspace import Float32Array, Int32Array, float32_array, int32_array
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
    """The expert half, what the host reads before it, and the next layer's router."""

    shared: Recording | None
    """The shared expert, if there is one; it runs while the host looks after the routed ones."""
    early_experts: Recording
    """The experts that are in memory, where others have to be waited for."""
    experts: Recording
    """The others, or all of them; then the sum of all outputs."""
    routed: Int32Array
    """The experts routed to, [1, K], once the mixer half has finished."""
    next_layer: NextRouter | None


@dataclass(frozen=True)
class NextRouter:
    """What the router of a later layer makes of this layer's state: experts [1, K], best first."""

    index: int
    guessed: Int32Array


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
        decoder.encode_logits(self._head, decoder.normed(work), logits)

    def __call__(self, token_id: int, position: int) -> Float32Array:
        """Logits [V] that follow `token_id` at `position`; the states advance by one token."""
        runtime, step = self._runtime, Step(position, 1)
        with runtime.decode_step(position):
            self._tokens[0] = token_id
            embedding = runtime.command_buffer(step, "embedding")
            embedding.replay(self._embedding)
            commands: CommandBuffer | None = embedding
            for layer in self._layers:
                commands = runtime.begin_layer(commands, step, layer.index)
                commands.replay(layer.mixer)
                if layer.sparse is not None:
                    runtime.commit(commands)
                    self._commit_shared(layer.index, layer.sparse, step)
                    runtime.wait(commands)
                    commands = self._experts(layer.index, layer.sparse, step)
            commands = runtime.begin_layer(commands, step, len(self._layers))
            commands.replay(self._head)
            runtime.finish(commands)
        return self._logits.copy()

    def _commit_shared(self, index: int, sparse: SparseRecordings, step: Step) -> None:
        if sparse.shared is not None:
            commands = self._runtime.command_buffer(step, f"layer {index} shared expert")
            commands.replay(sparse.shared)
            self._runtime.commit(commands)

    def _experts(self, index: int, sparse: SparseRecordings, step: Step) -> CommandBuffer | None:
        """The routed experts: what is in memory is computed while the rest is read.

        What follows goes into the command buffer that is returned, if any is left to be committed.
        """
        runtime = self._runtime
        runtime.experts.release_all()
        routed = self._routed(index, sparse)
        table, early_table = runtime.decode_tables
        fetch = runtime.experts.begin_fetch(index, routed)
        if fetch.pending and fetch.ready:
            early_table.set_token(routed, fetch.ready)
            early = runtime.command_buffer(step, f"layer {index} early experts")
            early.replay(sparse.early_experts)
            runtime.commit(early)
        table.set_token(routed, fetch.wait() if fetch.pending else fetch.ready)
        commands = runtime.command_buffer(step, f"layer {index} experts")
        commands.replay(sparse.experts)
        if fetch.pending:
            return commands
        runtime.commit(commands)
        return None

    def _routed(self, index: int, sparse: SparseRecordings) -> list[int]:
        """The experts that a layer routes to; prefetch is told what the next router guesses."""
        runtime, started = self._runtime, time.perf_counter()
        routed: list[int] = sparse.routed[0].tolist()
        guessed: list[int] = []
        if (guess := sparse.next_layer) is not None:
            guessed = guess.guessed[0].tolist()
            runtime.experts.offer(guess.index, guessed)
        if runtime.routes is not None:
            runtime.routes.route([routed], guessed)
        runtime.add_span("router", f"layer {index} router", started)
        return routed

    def _record(self, layer: DecoderLayer, state: LayerState) -> LayerRecordings:
        runtime = self._runtime
        work, decoder, record = runtime.decode_work, runtime.decoder, runtime.device.record
        mixer = record()
        decoder.encode_mixer(mixer, layer, state, work)
        if not isinstance(layer.mlp, SparseMoe):
            return LayerRecordings(layer.index, mixer, None)
        moe, x, (table, early_table) = layer.mlp, decoder.normed(work), runtime.decode_tables
        shared = record() if moe.shared is not None else None
        early_experts, experts = record(), record()
        if shared is not None:
            moe.encode_shared(shared, x, work)
        moe.encode_experts(early_experts, x, early_table.batch, work)
        moe.encode_experts(experts, x, table.batch, work)
        decoder.encode_combine(experts, layer, work)
        routed = int32_array(routed_experts(work, moe.top_k).experts, 1, moe.top_k)
        next_layer = self._record_next_router(mixer, layer)
        sparse = SparseRecordings(shared, early_experts, experts, routed, next_layer)
        return LayerRecordings(layer.index, mixer, sparse)

    def _record_next_router(self, mixer: Recording, layer: DecoderLayer) -> NextRouter | None:
        """Behind the mixer half, where prefetch asks for it and a later layer has experts."""
        runtime = self._runtime
        if not (runtime.experts.wants_offers or runtime.records_guesses):
            return None
        work, x = runtime.decode_work, runtime.decoder.normed(runtime.decode_work)
        for later in runtime.decoder.layers[layer.index + 1 :]:
            if isinstance(later.mlp, SparseMoe):
                guess = routed_experts(work, later.mlp.top_k, of="next layer")
                later.mlp.encode_router(mixer, x, guess, work)
                return NextRouter(later.index, int32_array(guess.experts, 1, guess.top_k))
        return None
