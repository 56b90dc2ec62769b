"""Prefill: a chunk of tokens, layer by layer, each needed expert read once per chunk."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from moeflux._core import CommandBuffer, Step
from moeflux.blocks.decoder import DecoderLayer, routed_experts
from moeflux.blocks.moe import SparseMoe
from moeflux.blocks.workspace import Float32Array, float32_array, int32_array
from moeflux.engine.runtime import LOGIT_ROWS, Runtime
from moeflux.engine.state import SequenceState
from moeflux.experts.slots import Demand


class Prefill:
    """Runs prompts through the model in chunks.

    Scratch and tables are shared by all sessions of the runtime.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._tokens = runtime.device.buffer(4 * runtime.prefill_chunk, host=True)
        self._token_array = int32_array(self._tokens, runtime.prefill_chunk)
        self._tables = [runtime.expert_table(runtime.prefill_chunk) for _ in range(2)]

    def chunks(self, token_ids: Sequence[int], position: int) -> Iterator[Sequence[int]]:
        """Pieces of a prompt from `position` on, broken at multiples of the chunk."""
        size = self._runtime.prefill_chunk
        first = 0
        while first < len(token_ids):
            last = min(first + size - (position + first) % size, len(token_ids))
            yield token_ids[first:last]
            first = last

    def run(self, state: SequenceState, token_ids: Sequence[int]) -> None:
        """One chunk (at most prefill_chunk tokens): the states advance.

        The last normed rows stay in the workspace.
        """
        runtime, step = self._runtime, Step(state.position, len(token_ids), prefill=True)
        work, decoder = runtime.prefill_work, runtime.decoder
        with runtime.prefill_step(state.position, len(token_ids)):
            self._token_array[: len(token_ids)] = token_ids
            commands = runtime.command_buffer(step, "embedding")
            decoder.encode_embedding(commands, self._tokens, work)
            for layer, layer_state in zip(decoder.layers, state.layers, strict=True):
                commands = runtime.begin_layer(commands, step, layer.index)
                decoder.encode_mixer(commands, layer, layer_state, work)
                if isinstance(layer.mlp, SparseMoe):
                    runtime.finish(commands)
                    commands = self._experts(layer, layer.mlp, step)
            runtime.finish(commands)
        state.add_prompt(token_ids)

    def logits(self, first: int, count: int) -> Float32Array:
        """Logits [count, V] after the rows first ..

        First + count - 1 of the chunk that ran last.
        """
        runtime = self._runtime
        work, decoder = runtime.prefill_work, runtime.decoder
        out = np.empty((count, decoder.vocabulary), np.float32)
        logits = runtime.logit_work.rows("logits", decoder.vocabulary, host=True)
        array = float32_array(logits.buffer, LOGIT_ROWS, decoder.vocabulary)
        for done in range(0, count, LOGIT_ROWS):
            n_rows = min(LOGIT_ROWS, count - done)
            rows = decoder.normed(work).rows(first + done, n_rows)
            commands = runtime.command_buffer(Step(0, n_rows, prefill=True), "logits")
            decoder.encode_logits(commands, rows, logits)
            runtime.finish(commands)
            out[done : done + n_rows] = array[:n_rows]
        return out

    def _experts(self, layer: DecoderLayer, moe: SparseMoe, step: Step) -> CommandBuffer:
        """The expert half of a layer in waves: while one computes, the next is read."""
        runtime = self._runtime
        work, decoder, experts = runtime.prefill_work, runtime.decoder, runtime.experts
        experts.release_all()
        x, started = decoder.normed(work), time.perf_counter()
        routed = int32_array(routed_experts(work, moe.top_k).experts, work.capacity, moe.top_k)
        routed = routed[: step.n_tokens]
        if runtime.routes is not None:
            runtime.routes.route(routed.tolist())
        wanted = np.unique(routed).tolist()
        runtime.add_span("router", f"layer {layer.index} router", started)
        commands = runtime.command_buffer(step, f"layer {layer.index} shared expert")
        moe.encode_shared(commands, x, work)
        runtime.commit(commands)
        running: CommandBuffer | None = None
        for index, wave in enumerate(experts.waves(layer.index, wanted)):
            table = self._tables[index % 2]
            table.set_tokens(routed, experts.fetch(layer.index, wave, Demand.PREFILL))
            commands = runtime.command_buffer(step, f"layer {layer.index} experts")
            moe.encode_experts(commands, x, table.batch, work)
            runtime.commit(commands)
            if running is not None:
                runtime.wait(running)
                experts.release_oldest()
            running = commands
        commands = runtime.command_buffer(step, f"layer {layer.index} combine")
        decoder.encode_combine(commands, layer, work)
        return commands
