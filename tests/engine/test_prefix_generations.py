"""Generations behind stored prefixes: fewer tokens prefilled, the same tokens generated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import moeflux
from moeflux.server.jobs.job import GenerationRequest, Job
from moeflux.server.jobs.scheduler import Scheduler
from tiny_checkpoint import CheckpointFolders

EOS = 1
SYSTEM = [3 + (7 * index) % 250 for index in range(139)] + [EOS]
QUESTIONS = [[20 + number, 30, 40, EOS, 50] * 12 for number in range(4)]
Load = Callable[..., moeflux.Model]


@pytest.fixture(params=["qwen3_5_moe", "qwen3_moe"])
def load(request: pytest.FixtureRequest, tiny_folder: CheckpointFolders) -> Load:
    """Loads a tiny hybrid, or one with attention alone."""

    def loaded(**settings: object) -> moeflux.Model:
        chosen = moeflux.Settings(prefill_chunk=128, **settings)  # type: ignore[arg-type]
        return moeflux.load(tiny_folder(request.param), device="cpu", settings=chosen)

    return loaded


def answers(model: moeflux.Model) -> list[tuple[list[int], int]]:
    """Tokens and cached tokens of each question behind the system prompt."""
    found = []
    for number, question in enumerate(QUESTIONS):
        *others, last = model.generate(
            SYSTEM + question, max_tokens=5, temperature=1.0, seed=number, logit_bias={EOS: -1e3}
        )
        assert last.stats is not None
        n_cached = last.stats.cached_tokens
        assert last.stats.prefill.n_tokens == len(SYSTEM) + len(question) - n_cached
        found.append(([event.token_id for event in (*others, last)], n_cached))
    return found


def tokens(found: list[tuple[list[int], int]]) -> list[list[int]]:
    return [token_ids for token_ids, _ in found]


@pytest.fixture
def expected(load: Load) -> Iterator[list[list[int]]]:
    with load() as model:
        yield tokens(answers(model))


def test_a_system_prompt_is_prefilled_once(load: Load, expected: list[list[int]]) -> None:
    with load(prefix_memory="50MB") as model:
        found = answers(model)
        again = answers(model)
    assert tokens(found) == tokens(again) == expected
    assert [n_cached for _, n_cached in found] == [0, 128, 128, 128]
    # The whole prompt but its last block was seen before.
    assert [n_cached for _, n_cached in again] == [192] * 4


def test_prefixes_outlive_the_process(
    load: Load, expected: list[list[int]], tmp_path: Path
) -> None:
    runs = []
    for _ in range(2):
        with load(prefix_folder=str(tmp_path / "prefixes")) as model:
            runs.append(answers(model))
    assert [tokens(run) for run in runs] == [expected] * 2
    assert [n_cached for _, n_cached in runs[1]] == [192] * 4


def test_jobs_share_prefixes_and_keep_their_tokens(load: Load, expected: list[list[int]]) -> None:
    async def heard(job: Job) -> list[int]:
        return [item.token_id async for item in job if isinstance(item, moeflux.Event)]

    async def all_heard(scheduler: Scheduler) -> list[list[int]]:
        jobs = [
            scheduler.submit(
                GenerationRequest(
                    SYSTEM + question,
                    max_tokens=5,
                    sampling={"temperature": 1.0, "seed": number, "logit_bias": {EOS: -1e3}},
                )
            )
            for number, question in enumerate(QUESTIONS)
        ]
        return await asyncio.wait_for(asyncio.gather(*map(heard, jobs)), 120)

    with (
        load(prefix_memory="50MB") as model,
        Scheduler(model, max_active=2, max_queued=4) as scheduler,
    ):
        first = asyncio.run(all_heard(scheduler))
        status = scheduler.status()
    n_tokens = sum(len(SYSTEM) + len(question) for question in QUESTIONS)
    assert first == expected
    assert status.n_cached >= 128
    assert status.n_cached + status.prefill.n_tokens == n_tokens
