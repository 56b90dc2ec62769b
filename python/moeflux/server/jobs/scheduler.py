"""Many requests, one model: a thread that owns it and advances every active job in turn.

A turn is one unit of work: a prefill chunk or a decode step. Turns go round, so that nobody waits
for more than one unit of each other job. Jobs begin in the order of submission. All share one pool
of experts; that they alternate in it costs reads rather than saving some, which bench/serving.py
measures and status() tells. A job's tokens are the same whatever else is in flight: jobs share
experts and scratch, never state.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import deque
from dataclasses import replace
from types import TracebackType

from moeflux.engine.events import Event, PrefillProgress
from moeflux.engine.generate import Generation
from moeflux.engine.model import Model
from moeflux.engine.receipt import GenerationStats
from moeflux.engine.state_budget import SessionMemoryError
from moeflux.errors import MoefluxError
from moeflux.server.jobs.job import GenerationRequest, Job, JobState, forget_frames
from moeflux.server.jobs.refusals import DrainingError as DrainingError
from moeflux.server.jobs.refusals import QueueFullError as QueueFullError
from moeflux.server.jobs.status import JobStatus, SchedulerStatus, WorkTotals

_log = logging.getLogger(__name__)


class _Running:
    """An active job and its generation, until that is let go of."""

    def __init__(self, job: Job, generation: Generation) -> None:
        self.job = job
        self.generation = generation


class Scheduler:
    """Runs up to `max_active` generations of a model at once; up to `max_queued` more wait.

    Submit from any thread. While it is open, the model is its own: sessions of others would take
    turns with the whole of it. close() when done; the model stays open.
    """

    def __init__(self, model: Model, *, max_active: int = 4, max_queued: int = 64) -> None:
        """Raises ValueError for less than one active job or a negative queue."""
        if max_active < 1 or max_queued < 0:
            raise ValueError(
                "max_active must be at least 1 and max_queued at least 0, "
                f"got {max_active} and {max_queued}"
            )
        self._model = model
        self._max_active, self._max_queued = max_active, max_queued
        self._changed = threading.Condition()
        self._queue: deque[Job] = deque()
        self._active: list[_Running] = []
        self._beginning: Job | None = None
        self._awaits_memory = False
        self._draining = self._closing = False
        self._n_jobs = self._n_refused = self._n_cached = 0
        self._ended: dict[JobState, int] = dict.fromkeys(("finished", "cancelled", "failed"), 0)
        self._prefill, self._decode = WorkTotals(), WorkTotals()
        self._thread = threading.Thread(target=self._run, name="moeflux scheduler", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def submit(self, request: GenerationRequest) -> Job:
        """Queue a request. Does not wait, and computes nothing.

        Raises QueueFullError, DrainingError, and what GenerationRequest.checked raises.
        """
        checked = request.checked(self._model)
        with self._changed:
            if self._draining:
                self._n_refused += 1
                raise DrainingError("the server is shutting down and takes no more requests")
            if len(self._queue) + self._n_begun >= self._max_active + self._max_queued:
                self._n_refused += 1
                raise QueueFullError(self._max_queued)
            job = Job(self._n_jobs, checked, self._cancel)
            self._n_jobs += 1
            self._queue.append(job)
            self._changed.notify_all()
        return job

    def status(self) -> SchedulerStatus:
        """Where it stands. Does not wait for the unit under way."""
        with self._changed:
            begun = [running.job for running in self._active]
            begun += [self._beginning] if self._beginning is not None else []
            return SchedulerStatus(
                n_active=len(begun),
                n_queued=len(self._queue),
                max_active=self._max_active,
                max_queued=self._max_queued,
                draining=self._draining,
                n_finished=self._ended["finished"],
                n_cancelled=self._ended["cancelled"],
                n_failed=self._ended["failed"],
                n_refused=self._n_refused,
                n_cached=self._n_cached,
                prefill=replace(self._prefill),
                decode=replace(self._decode),
                jobs=tuple(map(JobStatus.of, [*begun, *self._queue])),
            )

    def drain(self, timeout: float | None = None) -> bool:
        """Take no more requests, and wait until those submitted have ended.

        False if some have not after `timeout` seconds; 0 does not wait.
        """
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: not (self._queue or self._n_begun), timeout)

    def close(self) -> None:
        """Stop within one unit of work; jobs that have not ended fail with DrainingError.

        Idempotent.
        """
        with self._changed:
            self._draining = self._closing = True
            self._changed.notify_all()
        self._thread.join()
        atexit.unregister(self.close)

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _n_begun(self) -> int:
        return len(self._active) + (self._beginning is not None)

    def _cancel(self, job: Job) -> None:
        with self._changed:
            if job in self._queue:
                self._queue.remove(job)
                self._end(job, "cancelled")
            job.is_cancelled = True

    # What follows runs on the scheduler's own thread.

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._begin_jobs()
                for running in tuple(self._active):
                    if not self._closing:
                        self._advance(running)
        finally:
            self._end_all(DrainingError("the server has stopped before the request was done"))

    def _wait_for_work(self) -> bool:
        """False when it is to stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._queue or self._active)
            return not self._closing

    def _begin_jobs(self) -> None:
        """Make queued jobs active, first come first served, while there is room for them.

        One whose session does not fit beside the others waits until one of these has ended.
        """
        while job := self._take_first():
            try:
                generation = self._model.begin(job.request)
            except SessionMemoryError as error:
                if not self._active:
                    self._fail_to_begin(job, error)
                    continue
                self._put_back(job)
                return
            except Exception as error:  # noqa: BLE001 - it is raised to the consumer
                self._fail_to_begin(job, error)
                continue
            with self._changed:
                self._beginning, job.state = None, "active"
                self._active.append(_Running(job, generation))
            del generation

    def _take_first(self) -> Job | None:
        """The next job that may begin now."""
        with self._changed:
            if self._closing or not self._queue or len(self._active) >= self._max_active:
                return None
            if self._awaits_memory and self._active:
                return None
            self._awaits_memory = False
            self._beginning = self._queue.popleft()
            return self._beginning

    def _put_back(self, job: Job) -> None:
        """Its session has to wait for memory."""
        with self._changed:
            self._awaits_memory, self._beginning = True, None
            if job.is_cancelled:
                self._end(job, "cancelled")
            else:
                self._queue.appendleft(job)

    def _fail_to_begin(self, job: Job, error: Exception) -> None:
        forget_frames(error)
        with self._changed:
            self._beginning = None
            self._end(job, "failed", error)

    def _advance(self, running: _Running) -> None:
        """One unit of work of one job."""
        if running.job.is_cancelled:
            self._finish(running, "cancelled")
            return
        counters = self._model.runtime.experts.counters
        before, started = counters.snapshot(), time.perf_counter()
        try:
            unit = running.generation.advance()
        except Exception as error:  # noqa: BLE001 - it is raised to the consumer
            self._finish(running, "failed", error)
            return
        assert unit is not None, "a generation was advanced after its last event"
        with self._changed:
            totals, n_tokens = self._account(running.job, unit)
            totals.add(n_tokens, time.perf_counter() - started, counters.since(before))
        is_heard = running.job.deliver(unit)
        if isinstance(unit, Event) and unit.finish_reason is not None:
            self._finish(running, "finished")
        elif not is_heard:
            self._finish(running, "cancelled")

    def _account(self, job: Job, unit: Event | PrefillProgress) -> tuple[WorkTotals, int]:
        """Where a unit of work is counted, and as how many tokens.

        The first token of an answer comes from the last chunk of its prompt.
        """
        if isinstance(unit, Event):
            return self._decode, min(1, job.n_generated)
        begins = job.n_prefilled == 0
        self._n_cached += unit.n_cached if begins else 0
        return self._prefill, unit.n_done - (unit.n_cached if begins else job.n_prefilled)

    def _finish(
        self, running: _Running, state: JobState, error: BaseException | None = None
    ) -> None:
        """Let go of the generation and of its session, then tell the consumer."""
        job, generation = running.job, running.generation
        stats: GenerationStats | None = None
        try:
            generation.close()
            stats = generation.stats
        except Exception as failure:  # noqa: BLE001 - the consumer gets this one or the first
            state, error = "failed", error or failure
        if error is not None:
            forget_frames(error)
        with self._changed:
            self._active.remove(running)
            self._awaits_memory = False
            del generation, running.generation
            self._end(job, state, error, stats)

    def _end_all(self, error: DrainingError) -> None:
        with self._changed:
            self._draining = self._closing = True
        for running in tuple(self._active):
            self._finish(running, "failed", error)
        with self._changed:
            jobs = [*self._queue] if self._beginning is None else [self._beginning, *self._queue]
            self._beginning = None
            self._queue.clear()
            for job in jobs:
                self._end(job, "failed", error)

    def _end(
        self,
        job: Job,
        state: JobState,
        error: BaseException | None = None,
        stats: GenerationStats | None = None,
    ) -> None:
        """The caller holds the lock."""
        if error is not None and not isinstance(error, DrainingError):
            unexpected = None if isinstance(error, MoefluxError) else error
            _log.warning("job %d failed: %s", job.number, error, exc_info=unexpected)
        self._ended[state] += 1
        job.end(state, stats, error)
        self._changed.notify_all()
