"""What every session of a loaded model shares: device, queue, weights, expert slots, scratch."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from moeflux._core import CommandBuffer, Device, Queue, Step
from moeflux.blocks.decoder import Decoder
from moeflux.blocks.moe import ExpertTable
from moeflux.blocks.workspace import Workspace
from moeflux.checkpoint.watch import FileWatch
from moeflux.experts.stream import ExpertStream

BLOCK = 64
"""Prompt chunks that break at multiples of this give the same bits as the whole prompt."""

LOGIT_ROWS = 16
"""Rows of logits computed at once where a prompt's are all wanted.

A vocabulary makes rows large.
"""


@dataclass
class Runtime:
    """One loaded model on one device.

    Sessions take turns: a step holds `turn` from its first to its last command buffer.
    """

    device: Device
    queue: Queue
    decoder: Decoder
    experts: ExpertStream
    files: FileWatch
    prefill_chunk: int
    turn: threading.RLock = field(default_factory=threading.RLock)
    device_wait_seconds: float = 0.0
    """Time the host stood still for the device, in all."""

    def __post_init__(self) -> None:
        self.decode_work = Workspace(self.device, 1)
        self.prefill_work = Workspace(self.device, self.prefill_chunk)
        self.logit_work = Workspace(self.device, LOGIT_ROWS)
        self.decode_table = self.expert_table(1)

    def expert_table(self, max_tokens: int) -> ExpertTable:
        """A table for the experts of up to `max_tokens` tokens."""
        experts = self.experts
        return ExpertTable(
            self.device, experts.slots, experts.slot_nbytes, max_tokens, experts.top_k
        )

    def finish(self, commands: CommandBuffer) -> None:
        """Commit and wait."""
        commands.commit()
        started = time.perf_counter()
        commands.wait()
        self.device_wait_seconds += time.perf_counter() - started

    def recover(self) -> None:
        """After an error inside a step: let device and reads finish, then unpin every slot."""
        commands = self.queue.command_buffer(Step(0, 1), "drain")
        self.finish(commands)
        self.experts.invalidate()
        self.experts.release_all()

    def close(self) -> None:
        """Stop reads, then let go of device memory."""
        self.experts.close()
        self.files.close()
