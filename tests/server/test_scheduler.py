"""Scheduler: the same tokens as alone, fair turns, bounds, and ends that reach who they concern."""

from __future__ import annotations

import asyncio
import re
import threading

import psutil
import pytest
from scheduled import PROMPTS, LoadWithSlots, Turns, alone, requests, results, tokens

import moeflux
from moeflux.server.jobs.job import GenerationRequest
from moeflux.server.jobs.scheduler import DrainingError, QueueFullError, Scheduler


def test_a_job_gives_progress_and_then_the_events(
    served: moeflux.Model, scheduler: Scheduler
) -> None:
    request = GenerationRequest(PROMPTS[0], max_tokens=4)
    job = scheduler.submit(request)
    (result,) = results([job])
    assert isinstance(result, list)
    assert result[:3] == [moeflux.PrefillProgress(n, 0, 150) for n in (64, 128, 150)]
    assert tokens(result) == alone(served, request)
    last = result[-1]
    assert isinstance(last, moeflux.Event)
    assert last.finish_reason == "length"
    assert job.stats is not None
    assert job.stats.generated_tokens == 4
    assert job.state == "finished"


def test_all_that_a_request_asks_for_reaches_its_generation(
    served: moeflux.Model, scheduler: Scheduler
) -> None:
    request = GenerationRequest(
        PROMPTS[3],
        max_tokens=50,
        sampling={"temperature": 1.0, "seed": 4},
        stop=["c"],
        logprobs=2,
        constraint=served.guidance.regex("[ab]{3,9}c"),
    )
    (result,) = results([scheduler.submit(request)])
    assert isinstance(result, list)
    events = [item for item in result if isinstance(item, moeflux.Event)]
    assert re.fullmatch("[ab]{3,9}", "".join(event.text for event in events))
    assert events[-1].stop_text == "c"
    assert all(event.logprobs and len(event.logprobs.top) == 2 for event in events)


@pytest.mark.parametrize(
    ("n_slots", "prefetch"), [(2, "off"), (5, "off"), (12, "combined"), (20, "auto")]
)
def test_tokens_are_as_if_alone_whatever_is_in_flight(
    load_with_slots: LoadWithSlots, n_slots: int, prefetch: str
) -> None:
    wanted = requests(8)
    with load_with_slots(n_slots, prefetch) as model:
        assert model.runtime.experts.n_slots == n_slots
        expected = [alone(model, request) for request in wanted]
        with Scheduler(model, max_active=5, max_queued=8) as scheduler:
            found = results([scheduler.submit(request) for request in wanted])
    assert [tokens(result) for result in found] == expected


def test_turns_go_round(served: moeflux.Model, scheduler: Scheduler, turns: Turns) -> None:
    with served.runtime.turn:
        jobs = [scheduler.submit(request) for request in requests(3)]
    results(jobs)
    order = [PROMPTS.index(prompt) for prompt in turns.prompts]
    first_round = order.index(2) - 2  # the others may have begun before the last one came
    assert order[:first_round] in ([], [0], [0, 1])
    n_rounds = 1 + 6  # of the shortest: a chunk and the tokens
    assert order[first_round : first_round + 3 * n_rounds] == [0, 1, 2] * n_rounds
    assert [order.count(index) for index in range(3)] == [3 + 6, 2 + 6, 1 + 6]


def test_so_many_are_active_and_the_others_begin_in_order(
    served: moeflux.Model, turns: Turns
) -> None:
    most = 0

    def count(_: object) -> None:
        nonlocal most
        most = max(most, scheduler.status().n_active)

    turns.before = count
    with Scheduler(served, max_active=2, max_queued=8) as scheduler:
        prompts = [[10 + index, 3] for index in range(6)]
        with served.runtime.turn:
            jobs = [scheduler.submit(GenerationRequest(prompt, max_tokens=3)) for prompt in prompts]
        results(jobs)
    assert most == 2
    begun = list(dict.fromkeys(map(tuple, turns.prompts)))
    assert begun == list(map(tuple, prompts))


# ---- bounds and refusals ----


def test_a_full_queue_refuses_with_its_size(served: moeflux.Model) -> None:
    with Scheduler(served, max_active=1, max_queued=2) as scheduler:
        with served.runtime.turn:
            jobs = [scheduler.submit(request) for request in requests(3)]
            with pytest.raises(QueueFullError, match="2 requests wait already") as caught:
                scheduler.submit(requests(1)[0])
            assert caught.value.max_queued == 2
        assert all(len(tokens(result)) == 6 for result in results(jobs))
        status = scheduler.status()
    assert (status.n_finished, status.n_refused) == (3, 1)


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (GenerationRequest([]), ValueError, "prompt is empty"),
        (GenerationRequest([3], max_tokens=0), ValueError, "max_tokens must be at least 1"),
        (GenerationRequest([3], sampling={"top_p": 2.0}), ValueError, "top_p"),
        (GenerationRequest([3], stop=[""]), ValueError, "stop"),
        (GenerationRequest([10**6]), ValueError, "vocabulary"),
        (GenerationRequest([3] * 5000), moeflux.ContextOverflowError, "5000 tokens at position 0"),
    ],
    ids=["prompt", "max_tokens", "sampling", "stop", "vocabulary", "context"],
)
def test_a_bad_request_is_refused_at_the_call(
    scheduler: Scheduler, request_: GenerationRequest, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        scheduler.submit(request_)
    assert scheduler.status().jobs == ()


@pytest.mark.parametrize("bounds", [(0, 1), (1, -1)])
def test_bounds_out_of_range_are_refused(served: moeflux.Model, bounds: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="max_active must be at least 1 and max_queued"):
        Scheduler(served, max_active=bounds[0], max_queued=bounds[1])


# ---- cancelling ----


def test_a_queued_job_is_cancelled_at_once(served: moeflux.Model) -> None:
    with Scheduler(served, max_active=1, max_queued=2) as scheduler:
        with served.runtime.turn:
            first, second, third = (scheduler.submit(request) for request in requests(3))
            second.cancel()
            assert second.state == "cancelled"
            assert [job.number for job in scheduler.status().jobs] == [first.number, third.number]
        found = results([first, second, third])
    assert [len(tokens(result)) for result in found] == [6, 0, 6]
    assert second.stats is None


def test_an_active_job_is_cancelled_within_a_unit(
    served: moeflux.Model, scheduler: Scheduler, turns: Turns
) -> None:
    job = scheduler.submit(GenerationRequest(PROMPTS[0], max_tokens=500))

    def cancel_in_the_fifth(_: object) -> None:
        if len(turns.prompts) == 5:
            job.cancel()

    turns.before = cancel_in_the_fifth
    (result,) = results([job])
    assert len(turns.prompts) == 5
    assert isinstance(result, list)
    assert len(result) == 5
    assert job.state == "cancelled"
    assert job.stats is not None
    assert job.stats.generated_tokens == 2
    other = requests(1)[0]
    (result,) = results([scheduler.submit(other)])
    assert tokens(result) == alone(served, other)


def test_cancelling_after_the_end_changes_nothing(scheduler: Scheduler) -> None:
    job = scheduler.submit(requests(1)[0])
    results([job])
    job.cancel()
    assert job.state == "finished"


# ---- consumers ----


def test_a_consumer_that_does_not_read_holds_up_nobody(scheduler: Scheduler) -> None:
    unread, other = (scheduler.submit(request) for request in requests(2))
    results([other])
    assert scheduler.drain(60)
    assert unread.state == "finished"
    (result,) = results([unread])
    assert len(tokens(result)) == 6


def test_a_job_whose_consumers_loop_is_closed_is_cancelled(
    served: moeflux.Model, scheduler: Scheduler
) -> None:
    loop = asyncio.new_event_loop()
    with served.runtime.turn:
        job = scheduler.submit(GenerationRequest(PROMPTS[0], max_tokens=500))
        waiting = loop.create_task(anext(job))
        loop.run_until_complete(asyncio.sleep(0))
        waiting.cancel()
        loop.close()
    assert scheduler.drain(60)
    assert job.state == "cancelled"


# ---- errors ----


def test_a_failed_read_fails_its_job_alone(
    load_with_slots: LoadWithSlots, turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = requests(4)
    with load_with_slots(3) as model:
        expected = [alone(model, request) for request in wanted]
        reads, turns.prompts = model.runtime.experts._reads, []
        wait = reads.wait

        def failing(*arguments: object) -> None:
            wait(*arguments)
            if turns.prompts[-1] == PROMPTS[1] and turns.prompts.count(PROMPTS[1]) == 4:
                raise moeflux.ReadError("input/output error", path="experts.bin", wanted=8)

        monkeypatch.setattr(reads, "wait", failing)
        with Scheduler(model, max_active=4, max_queued=0) as scheduler:
            jobs = [scheduler.submit(request) for request in wanted]
            found = results(jobs)
            status = scheduler.status()
    assert isinstance(found[1], moeflux.ExpertReadError)
    assert found[1].path == "experts.bin"
    for index in (0, 2, 3):
        assert tokens(found[index]) == expected[index]
    assert [job.state for job in jobs] == ["finished", "failed", "finished", "finished"]
    assert (status.n_finished, status.n_failed) == (3, 1)
    assert jobs[1].stats is not None
    assert jobs[1].stats.generated_tokens == 1


def test_an_unexpected_error_is_logged_with_its_trace(
    scheduler: Scheduler, turns: Turns, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("a mistake of ours")

    turns.before = fail
    (result,) = results([scheduler.submit(requests(1)[0])])
    assert isinstance(result, RuntimeError)
    assert "Traceback" in caplog.text
    turns.before = lambda _: None
    assert len(tokens(results([scheduler.submit(requests(1)[0])])[0])) == 6


# ---- memory of sessions ----


def memory_for_sessions(model: moeflux.Model, n_tokens: int, n_sessions: int) -> None:
    """Leaves room for so many sessions of a size."""
    nbytes = model._loaded.decoder.state_nbytes(n_tokens)
    model.runtime.states._nbytes = n_sessions * nbytes


def test_a_job_waits_until_its_session_fits(served: moeflux.Model) -> None:
    wanted = [GenerationRequest(PROMPTS[0], max_tokens=10, sampling={"seed": n}) for n in range(5)]
    memory_for_sessions(served, 160, 2)
    most = 0
    with Scheduler(served, max_active=4, max_queued=4) as scheduler:
        begin = served.begin

        def counted(*arguments: object) -> object:
            nonlocal most
            most = max(most, len(scheduler._active) + 1)
            return begin(*arguments)  # type: ignore[arg-type]

        served.begin = counted  # type: ignore[method-assign,assignment]
        with served.runtime.turn:
            jobs = [scheduler.submit(request) for request in wanted]
        found = results(jobs)
    assert [len(tokens(result)) for result in found] == [10] * 5
    assert most == 3  # the third one was refused and waited


def test_a_job_whose_session_never_fits_fails_with_the_numbers(served: moeflux.Model) -> None:
    memory_for_sessions(served, 100, 1)
    with Scheduler(served) as scheduler:
        small, large = (
            scheduler.submit(GenerationRequest([3, 4], max_tokens=n)) for n in (10, 400)
        )
        found = results([small, large])
    assert len(tokens(found[0])) == 10
    assert isinstance(found[1], moeflux.SessionMemoryError)
    assert found[1].wanted > found[1].cap


def test_an_account_that_cannot_be_read_fails_its_job_alone(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LostAccountError(Exception):
        """Of the costs of a generation."""

    def lose(_: object) -> None:
        raise LostAccountError

    request = GenerationRequest(PROMPTS[3], max_tokens=2)
    with monkeypatch.context() as patch:
        patch.setattr("moeflux.engine.generate.Generation.stats", property(lose))
        (error,) = results([scheduler.submit(request)])
    assert isinstance(error, LostAccountError)
    (result,) = results([scheduler.submit(request)])
    assert isinstance(result, list)


def test_an_error_that_is_kept_keeps_no_session(
    served: moeflux.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory_for_sessions(served, 160, 1)
    fetch = served.runtime.experts.fetch

    def fail(*_: object) -> None:
        raise moeflux.ReadError("gone")

    monkeypatch.setattr(served.runtime.experts, "fetch", fail)
    with Scheduler(served) as scheduler:
        request = GenerationRequest(PROMPTS[0], max_tokens=10)
        (error,) = results([scheduler.submit(request)])
        assert isinstance(error, moeflux.ReadError)
        assert served.runtime.states._used == 0
        monkeypatch.setattr(served.runtime.experts, "fetch", fetch)
        assert len(tokens(results([scheduler.submit(request)])[0])) == 10


# ---- the end ----


def test_draining_refuses_and_finishes(served: moeflux.Model, scheduler: Scheduler) -> None:
    with served.runtime.turn:
        jobs = [scheduler.submit(request) for request in requests(5)]
        assert not scheduler.drain(0)
        with pytest.raises(DrainingError, match="shutting down"):
            scheduler.submit(requests(1)[0])
        assert scheduler.status().draining
    assert scheduler.drain(60)
    assert all(len(tokens(result)) == 6 for result in results(jobs))


def test_close_fails_what_has_not_ended(served: moeflux.Model) -> None:
    scheduler = Scheduler(served, max_active=1, max_queued=3)
    closing = threading.Thread(target=scheduler.close)
    with served.runtime.turn:
        jobs = [scheduler.submit(GenerationRequest([3, 4], max_tokens=99)) for _ in range(3)]
        closing.start()
        while not scheduler.status().draining:
            closing.join(0.01)
    closing.join(60)
    scheduler.close()
    for result in results(jobs):
        assert isinstance(result, DrainingError)
    with pytest.raises(DrainingError):
        scheduler.submit(requests(1)[0])
    assert served.session().prefill([1, 2]).size


def test_neither_threads_nor_descriptors_are_left(served: moeflux.Model) -> None:
    process = psutil.Process()
    results_of_one(served)
    n_threads, n_files = threading.active_count(), process.num_fds()
    for _ in range(3):
        results_of_one(served)
    assert threading.active_count() == n_threads
    assert process.num_fds() == n_files


def results_of_one(model: moeflux.Model) -> None:
    with Scheduler(model) as scheduler:
        results([scheduler.submit(requests(1)[0])])


# ---- what it tells ----


def test_status_counts_tokens_reads_and_jobs(load_with_slots: LoadWithSlots) -> None:
    with load_with_slots(4) as model:
        before = model.runtime.experts.counters.snapshot()
        with Scheduler(model, max_active=3, max_queued=1) as scheduler:
            results([scheduler.submit(request) for request in requests(4)])
            status = scheduler.status()
        spent = model.runtime.experts.counters.since(before)
    assert status.n_finished == 4
    assert (status.n_active, status.n_queued, status.jobs) == (0, 0, ())
    assert status.prefill.n_tokens == sum(map(len, PROMPTS))
    assert status.prefill.n_units == 3 + 2 + 1 + 1
    # The first token of each answer comes from its prompt.
    assert (status.decode.n_units, status.decode.n_tokens) == (4 * 6, 4 * 5)
    assert status.prefill.bytes_read + status.decode.bytes_read == spent.bytes_read
    assert status.decode.bytes_per_token == status.decode.bytes_read / 20 > 0
    assert 0 < status.decode.hit_rate < 1


def test_status_tells_the_jobs_that_are_there(scheduler: Scheduler, turns: Turns) -> None:
    seen = []
    turns.before = lambda _: seen.append(scheduler.status().jobs)
    results([scheduler.submit(GenerationRequest(PROMPTS[0], max_tokens=2))])
    found = [(jobs[0].n_prompt, jobs[0].n_prefilled, jobs[0].n_generated) for jobs in seen]
    assert found == [(150, 0, 0), (150, 64, 0), (150, 128, 0), (150, 150, 0), (150, 150, 1)]
    assert {jobs[0].state for jobs in seen} == {"active"}
