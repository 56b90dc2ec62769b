"""Runs jobs of a scheduler to their ends, and watches whose turns they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

import moeflux
from moeflux.engine.generate import Generation
from moeflux.server.jobs.job import GenerationRequest, Job

Item = moeflux.Event | moeflux.PrefillProgress
LoadWithSlots = Callable[..., moeflux.Model]
TIMEOUT = 120

PROMPTS = [
    [3 + (7 * index) % 250 for index in range(150)],
    [5 + (11 * index) % 250 for index in range(90)],
    [250 - (3 * index) % 240 for index in range(20)],
    [40, 41, 42],
]


def requests(n_jobs: int = len(PROMPTS), max_tokens: int = 6) -> list[GenerationRequest]:
    """Some greedy, some sampled, with prompts of one to three chunks of 64."""
    return [
        GenerationRequest(
            PROMPTS[index % len(PROMPTS)],
            max_tokens=max_tokens,
            sampling={"temperature": float(index % 2), "seed": index},
        )
        for index in range(n_jobs)
    ]


def alone(model: moeflux.Model, request: GenerationRequest) -> list[int]:
    """Tokens of the request without a scheduler."""
    return [event.token_id for event in model.begin(request.checked(model))]


def results(jobs: Sequence[Job]) -> list[list[Item] | Exception]:
    """The items of each job, or its error, once all have ended."""

    async def items(job: Job) -> list[Item]:
        return [item async for item in job]

    async def gathered() -> list[list[Item] | Exception]:
        waiting = asyncio.gather(*map(items, jobs), return_exceptions=True)
        return await asyncio.wait_for(waiting, TIMEOUT)  # type: ignore[return-value]

    return asyncio.run(gathered())


def tokens(result: list[Item] | Exception) -> list[int]:
    assert isinstance(result, list), result
    return [item.token_id for item in result if isinstance(item, moeflux.Event)]


class Turns:
    """Notes the prompt of every generation that is advanced, and may spoil a turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prompts: list[list[int]] = []
        self.before: Callable[[list[int]], None] = lambda _: None
        """Called with the prompt on the scheduler's thread."""
        advance = Generation.advance

        def noted(generation: Generation) -> Item | None:
            prompt_ids = list(generation._request.prompt_ids)
            self.prompts.append(prompt_ids)
            self.before(prompt_ids)
            return advance(generation)

        monkeypatch.setattr(Generation, "advance", noted)
