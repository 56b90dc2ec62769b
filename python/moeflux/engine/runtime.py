"""What every session of a loaded model shares: device, queue, weights, expert slots, scratch."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from moeflux._core import CommandBuffer, Device, Queue, Step
from moeflux.blocks.decoder import Decoder
from moeflux.blocks.moe import ExpertTable
from moeflux.blocks.workspace import Workspace
from moeflux.capture import StepCapture
from moeflux.capture.process import CAPTURES
from moeflux.checkpoint.watch import FileWatch
from moeflux.engine.account import Account, Ledger, Totals, drive_nbytes
from moeflux.engine.routes import RouteRecorder
from moeflux.engine.snapshots.identity import Fingerprint, StateIdentity, state_identity
from moeflux.engine.state_budget import StateBudget
from moeflux.errors import SessionStateError
from moeflux.experts.stream import ExpertStream
from moeflux.experts.timeline import Timeline
from moeflux.profile import Profile, current_profile

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
    device_seconds: float = 0.0
    """Time the device worked, in all."""
    lossy: tuple[str, ...] = ()
    """Settings that change what the model computes, such as activations=int8."""
    memory_cap: int | None = None
    """Of the process, in bytes, if one was asked for."""
    vram_cap: int | None = None
    """Of the device's own memory, in bytes, if one was asked for."""
    states: StateBudget = field(default_factory=lambda: StateBudget(None))
    """For the states of all sessions."""
    fingerprint: Fingerprint | None = None
    """Of the checkpoint, if states may be stored."""
    context_limit: int | None = None
    """Positions of a session at most, if the model has a limit."""
    weight_nbytes_per_token: int = 0
    """Weights that a decode step touches, those of its experts included."""
    closed: bool = False
    records_guesses: bool = False
    """Sessions made from now on ask the next layer's router even where prefetch does not."""

    def __post_init__(self) -> None:
        self.timeline: Timeline | None = None
        self.routes: RouteRecorder | None = None
        self.capture: StepCapture | None = None
        """GPU traces of steps, if any are asked for."""
        self._separates_layers = False
        self._committed: deque[tuple[CommandBuffer, float, Profile | None]] = deque()
        CAPTURES.add_device(self.device)
        decisions = self.experts.governor.decisions if self.experts.governor is not None else ()
        self._ledger = Ledger(self._totals, decisions)
        self.decode_work = Workspace(self.device, 1)
        self.prefill_work = Workspace(self.device, self.prefill_chunk)
        self.logit_work = Workspace(self.device, LOGIT_ROWS)
        self.decode_tables = self.expert_table(1), self.expert_table(1)
        """For all experts or those waited for, and for those that are in memory meanwhile."""

    def expert_table(self, max_tokens: int) -> ExpertTable:
        """A table for the experts of up to `max_tokens` tokens."""
        experts = self.experts
        return ExpertTable(
            self.device, experts.slots, experts.slot_nbytes, max_tokens, experts.top_k
        )

    @contextmanager
    def turn_of(self, account: Account | None) -> Iterator[None]:
        """Hold the turn; what happens meanwhile is charged to `account`."""
        if not self.turn.acquire(blocking=False):
            started = time.perf_counter()
            self.turn.acquire()
            if account is not None:
                account.turn_wait_seconds += time.perf_counter() - started
        try:
            if account is not self._ledger.account:
                self._ledger.switch(account)
                self.routes = account.routes if account is not None else None
            self._set_timeline(account)
            yield
        finally:
            self.turn.release()

    def settle(self) -> None:
        """Charge all until now, so that accounts can be read."""
        with self.turn:
            self._ledger.settle()

    def settle_guesses(self, account: Account) -> None:
        """After the last token of a generation: charge its account with what became of guesses."""
        with self.turn_of(account):
            self.experts.settle()

    @contextmanager
    def decode_step(self, position: int) -> Iterator[None]:
        """Around the command buffers of a decode step: what experts, routes and captures need."""
        self.files.check()
        started = time.perf_counter()
        with self._recorded(position, prefill=False):
            self.experts.begin_token()
            yield
            self.experts.end_token(time.perf_counter() - started)
        self.add_span("steps", f"decode position {position}", started)

    @contextmanager
    def prefill_step(self, position: int, n_tokens: int) -> Iterator[None]:
        """The same for a chunk of a prompt."""
        self.files.check()
        started = time.perf_counter()
        with self._recorded(position, prefill=True):
            self.experts.begin_chunk()
            yield
            if self.capture is not None:
                self.capture.at_layer(len(self.decoder.layers))
            self.experts.release_all()
        name = f"prefill positions {position} to {position + n_tokens - 1}"
        self.add_span("steps", name, started)

    @contextmanager
    def _recorded(self, position: int, *, prefill: bool) -> Iterator[None]:
        """A step whose routes are recorded, and which a capture may hold layers of."""
        if (routes := self.routes) is not None:
            routes.begin(position, prefill=prefill)
        captured = self.capture is not None and self.capture.begin_step(prefill=prefill)
        self._separates_layers = captured or current_profile() is not None
        yield
        if routes is not None:
            routes.end()

    def begin_layer(self, commands: CommandBuffer | None, step: Step, index: int) -> CommandBuffer:
        """Where to encode layer `index`, or the head after the last one.

        `commands`, if any, is what has been encoded of the layers before, and goes on unless a
        capture of some layers or a profile wants command buffers of each layer's own.
        """
        if commands is not None:
            if not self._separates_layers:
                return commands
            self.commit(commands)
        if self._separates_layers and self.capture is not None:
            self.capture.at_layer(index)
        is_head = index == len(self.decoder.layers)
        return self.command_buffer(step, "head" if is_head else f"layer {index} mixer")

    def command_buffer(self, step: Step, label: str) -> CommandBuffer:
        """An empty command buffer, which notes when its kernels run if somebody wants to know."""
        commands = self.queue.command_buffer(step, label)
        profile = current_profile()
        if self.timeline is not None or (profile is not None and profile.per_dispatch):
            commands.keep_timings()
        return commands

    def commit(self, commands: CommandBuffer) -> None:
        """Submit; a later wait() accounts for it."""
        committed = time.perf_counter()
        commands.commit()
        self._committed.append((commands, committed, current_profile()))

    def wait(self, commands: CommandBuffer) -> None:
        """Wait for a command buffer that commit() submitted."""
        started = time.perf_counter()
        try:
            commands.wait()
        finally:
            ended = time.perf_counter()
            self.device_wait_seconds += ended - started
            self._collect()
        if self.timeline is not None:
            self.timeline.add("wait for device", commands.label, started, ended)

    def finish(self, commands: CommandBuffer) -> None:
        """Commit and wait."""
        self.commit(commands)
        self.wait(commands)

    def drain(self) -> None:
        """Wait for all that was committed."""
        if self._committed:
            self.wait(self._committed[-1][0])

    def add_span(self, track: str, name: str, begin: float) -> None:
        """Something that began at `begin` of time.perf_counter has ended, for the timeline."""
        if self.timeline is not None:
            self.timeline.add(track, name, begin, time.perf_counter())

    def recover(self) -> None:
        """After an error inside a step: let device and reads finish, then unpin every slot."""
        commands = self.command_buffer(Step(0, 1), "drain")
        self.finish(commands)
        self.experts.invalidate()
        self.experts.release_all()

    def identity(self) -> StateIdentity:
        """What states of this model belong to. Raises SessionStateError once closed, ReadError."""
        with self.turn:
            if self.closed or self.fingerprint is None:
                raise SessionStateError("the model is closed, or has no checkpoint to tell it by")
            return state_identity(self.fingerprint, self.device)

    def close(self) -> None:
        """Stop reads, once the step of whoever has the turn is over. Idempotent."""
        with self.turn:
            if not self.closed:
                CAPTURES.remove_device(self.device)
                if self.capture is not None:
                    self.capture.close()
            self.closed = True
            self.experts.close()
            self.files.close()

    def _collect(self) -> None:
        """Account for the command buffers that have finished, which they do in order."""
        while self._committed and self._committed[0][0].done:
            commands, committed, profile = self._committed.popleft()
            self.device_seconds += commands.gpu_seconds
            if profile is not None:
                profile.add_commands(commands.label, commands.gpu_seconds, commands.timings)
            if self.timeline is not None:
                self.timeline.add_commands(
                    commands.label, committed, commands.gpu_seconds, commands.timings
                )

    def _set_timeline(self, account: Account | None) -> None:
        """That of the account, else that of the profile around it."""
        timeline = account.timeline if account is not None else None
        if timeline is None and (profile := current_profile()) is not None:
            timeline = profile.timeline
        self.timeline = self.experts.timeline = timeline

    def _totals(self) -> Totals:
        residency = self.experts.residency
        return Totals(
            self.experts.counters,
            residency.prefetch.counters,
            residency.scores,
            self.device_wait_seconds,
            self.device_seconds,
            drive_nbytes(),
        )
