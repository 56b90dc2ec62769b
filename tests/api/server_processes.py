"""Servers to test: the program in a process of its own, and the application over scripted jobs."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn

from moeflux.chat import ChatTemplate
from moeflux.engine.events import Event, PrefillProgress
from moeflux.engine.guidance import Guidance
from moeflux.engine.request import Limits, Request
from moeflux.engine.sampler import Sampler, SamplingParams
from moeflux.server.app import create_app
from moeflux.server.jobs.job import GenerationRequest, Job
from moeflux.server.jobs.refusals import QueueFullError
from moeflux.server.jobs.status import SchedulerStatus, WorkTotals
from moeflux.server.model_holder import ModelHolder
from moeflux.server.options import ServerOptions
from moeflux.server.run import listening_socket, url
from moeflux.server.served_model import ServedModel
from moeflux.tokenizer import Tokenizer

SECONDS = 120
"""That anything in a test may take on a busy machine."""


@dataclass
class ServerProcess:
    """`moeflux serve` in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    lines: list[str] = field(default_factory=list)
    said: threading.Condition = field(default_factory=threading.Condition)
    """Notified of every line."""

    def wait_for_line(self, start: str) -> bool:
        """Whether the program has said such a line."""
        with self.said:
            return self.said.wait_for(
                lambda: any(line.startswith(start) for line in self.lines), SECONDS
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def terminate(self) -> int:
        """Ask it to stop; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)


@contextmanager
def server_process(*arguments: str, model: str = "demo") -> Iterator[ServerProcess]:
    """The program on a free port, ready."""
    command = [sys.executable, "-m", "moeflux.cli", "serve", model, "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines: list[str] = []
        address = ""
        ready, said = threading.Event(), threading.Condition()

        def read() -> None:
            nonlocal address
            assert process.stderr is not None
            for line in process.stderr:
                with said:
                    lines.append(line.rstrip())
                    said.notify_all()
                found = re.search(r"http://\S+:\d+", line)
                address = address or (found[0] if found else "")
                if "API key" in line:
                    ready.set()
            ready.set()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            assert ready.wait(SECONDS), lines
            assert process.poll() is None, lines
            yield ServerProcess(process, address, lines, said)
        finally:
            process.kill()
            process.wait()
            reader.join()


class ScriptedJobs:
    """Stands for the scheduler: jobs answer with given pieces of text, or wait to be told to.

    pieces: one event each. hold: jobs begin when `release` is called, so that they stay queued.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        pieces: Sequence[str] = ("Hel", "lo"),
        *,
        hold: bool = False,
        max_queued: int = 4,
    ) -> None:
        self.pieces = list(pieces)
        self.finish_reason: str = "stop"
        self.stop_text: str | None = None
        self.error: Exception | None = None
        """Raised after the pieces instead of an end."""
        self.requests: list[GenerationRequest] = []
        self.cancelled = threading.Event()
        self.drained: list[float | None] = []
        self._tokenizer, self._hold, self._max_queued = tokenizer, hold, max_queued
        self._waiting: deque[Job] = deque()

    def submit(self, request: GenerationRequest) -> Job:
        if len(self._waiting) >= self._max_queued:
            raise QueueFullError(self._max_queued)
        sampler = Sampler(SamplingParams(**request.sampling))
        limits = Limits(request.max_tokens, self._tokenizer.eos_token_ids, request.stop)
        checked = Request(request.prompt_ids, sampler, limits, request.logprobs)
        checked.check(self._tokenizer.vocab_size)
        self.requests.append(request)
        job = Job(len(self.requests), checked, self._cancel)
        if self._hold:
            self._waiting.append(job)
        else:
            self._answer(job)
        return job

    def release(self) -> None:
        """Answer the jobs that wait."""
        while self._waiting:
            self._answer(self._waiting.popleft())

    def status(self) -> SchedulerStatus:
        return SchedulerStatus(
            n_active=0,
            n_queued=len(self._waiting),
            max_active=1,
            max_queued=self._max_queued,
            draining=bool(self.drained),
            n_finished=0,
            n_cancelled=0,
            n_failed=0,
            n_refused=0,
            n_cached=0,
            prefill=WorkTotals(),
            decode=WorkTotals(),
            jobs=(),
        )

    def drain(self, timeout: float | None = None) -> bool:
        self.drained.append(timeout)
        return True

    def close(self) -> None:
        """Nothing runs on."""

    def _answer(self, job: Job) -> None:
        n_prompt = len(job.request.prompt_ids)
        job.deliver(PrefillProgress(n_prompt, 2, n_prompt))
        for n, piece in enumerate(self.pieces):
            is_last = n == len(self.pieces) - 1 and self.error is None
            reason = self.finish_reason if is_last else None
            stop_text = self.stop_text if is_last else None
            job.deliver(Event(piece, 5, reason, stop_text=stop_text))  # type: ignore[arg-type]
        job.end("failed" if self.error else "finished", None, self.error)

    def _cancel(self, job: Job) -> None:
        if job.state == "queued":
            job.end("cancelled", None)
            if job in self._waiting:
                self._waiting.remove(job)
                self.cancelled.set()


def served_by(jobs: ScriptedJobs, tokenizer: Tokenizer, context_size: int = 4096) -> ServedModel:
    """The demo model's texts over scripted jobs."""
    template = ChatTemplate(tokenizer)
    return ServedModel(
        names=("demo",),
        tokenizer=tokenizer,
        chat_template=template,
        context_size=context_size,
        defaults={"temperature": 0.5},
        jobs=jobs,
        created=1_700_000_000,
        grammars=lambda: Guidance(tokenizer),
    )


@contextmanager
def application(holder: ModelHolder, options: ServerOptions) -> Iterator[str]:
    """The application in a thread of its own; its address."""
    listener = listening_socket("127.0.0.1", 0)
    started = threading.Event()
    config = uvicorn.Config(create_app(holder, options), http="h11", ws="none", log_config=None)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started.set()

    server = Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        assert started.wait(SECONDS)
        yield url(listener)
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def served_application(served: ServedModel, options: ServerOptions) -> Iterator[str]:
    """The application with its model, ready; its address."""
    ready = threading.Event()
    holder = ModelHolder(lambda: served, lambda: None)
    holder.on_ready = lambda _: ready.set()
    with application(holder, options) as address:
        assert ready.wait(SECONDS)
        yield address
