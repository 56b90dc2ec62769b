"""Scheduler under users who come and go at random: what each gets is what it would get alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest
from scheduled import TIMEOUT, LoadWithSlots, alone, requests

import moeflux
from moeflux.server.jobs.job import GenerationRequest, Job
from moeflux.server.jobs.scheduler import QueueFullError, Scheduler


async def user(
    scheduler: Scheduler, wanted: GenerationRequest, patience: int, arrival: int
) -> tuple[Job | None, list[int]]:
    """Comes after so many turns of the loop, and leaves after so many items."""
    for _ in range(arrival):
        await asyncio.sleep(0)
    try:
        job = scheduler.submit(wanted)
    except QueueFullError:
        return None, []
    token_ids = []
    async for item in job:
        if isinstance(item, moeflux.Event):
            token_ids.append(item.token_id)
        patience -= 1
        if patience == 0:
            job.cancel()
    return job, token_ids


async def crowd(
    scheduler: Scheduler, wanted: Sequence[GenerationRequest], chance: random.Random
) -> list[tuple[Job | None, list[int]]]:
    users = [
        user(scheduler, request, chance.choice([1, 3, 6, 100]), chance.randrange(200))
        for request in wanted
    ]
    return await asyncio.wait_for(asyncio.gather(*users), TIMEOUT)


@pytest.mark.parametrize("seed", range(4))
def test_users_who_come_and_go_get_what_they_would_get_alone(
    load_with_slots: LoadWithSlots, seed: int
) -> None:
    chance = random.Random(seed)
    wanted = requests(12, max_tokens=5)
    with load_with_slots(chance.choice([2, 4, 9])) as model:
        expected = [alone(model, request) for request in wanted]
        with Scheduler(model, max_active=3, max_queued=5) as scheduler:
            found = asyncio.run(crowd(scheduler, wanted, chance))
            status = scheduler.status()
    ended = {"finished": 0, "cancelled": 0}
    for (job, token_ids), whole in zip(found, expected, strict=True):
        if job is not None:
            ended[job.state] += 1
            assert token_ids == whole[: len(token_ids)]
            assert job.state == "cancelled" or token_ids == whole
    n_refused = sum(job is None for job, _ in found)
    assert (status.n_finished, status.n_cancelled) == (ended["finished"], ended["cancelled"])
    assert (status.n_failed, status.n_refused) == (0, n_refused)
    assert (status.n_active, status.n_queued) == (0, 0)
