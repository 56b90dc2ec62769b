"""POST /v1/responses."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from moeflux.server.answer_stream import Answer, AnswerStream, Ending, Usage
from moeflux.server.errors import ApiError
from moeflux.server.openai.responses_items import ItemWriter, item_fields
from moeflux.server.openai.responses_request import ResponsesRequest
from moeflux.server.openai.shapes import json_response, new_id, progress_fields, receipt_fields
from moeflux.server.planning import ChatTask, plan_chat
from moeflux.server.served_model import ServedModel
from moeflux.server.service import AnswerPlan, AnswerService, answer_while_wanted
from moeflux.server.streaming import EventStream, sse
from moeflux.server.strict_route import StrictRoute

PATH = "/v1/responses"


def responses_router(service: AnswerService) -> APIRouter:
    """The route."""
    router = APIRouter(route_class=StrictRoute, tags=["OpenAI"])

    @router.post(PATH)
    async def create_response(body: ResponsesRequest, request: Request) -> Response:
        """An answer to a conversation."""
        served = service.model(body.model)
        plan = await run_in_threadpool(_plan, served, body)
        stream = service.start(served, plan, "responses")
        writer = ResponseWriter(served, body, plan)
        if body.stream:
            return EventStream(writer.events(stream), stream.close, writer.error_event)
        return json_response(writer.whole(await answer_while_wanted(request, stream)))

    return router


def _plan(served: ServedModel, body: ResponsesRequest) -> AnswerPlan:
    task = ChatTask(
        messages=body.template_messages(),
        variables=body.template_variables(),
        offer=body.offer,
        sampling=body.sampling(served.defaults),
        answer_format=body.format,
        max_tokens=body.max_output_tokens,
        stops=body.stops,
        logprobs=body.n_logprobs,
    )
    return plan_chat(served, task)


class ResponseWriter:
    """Writes one answer as OpenAI's Responses API does."""

    def __init__(self, served: ServedModel, body: ResponsesRequest, plan: AnswerPlan) -> None:
        self._tokenizer = served.tokenizer
        self._n_events = 0
        self._head = {
            "id": new_id("resp"),
            "object": "response",
            "created_at": int(time.time()),
            "model": served.name,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": plan.sampling.get("temperature"),
            "top_p": plan.sampling.get("top_p"),
            **body.model_dump(include={"text", "reasoning"}, by_alias=True, exclude_none=True),
            "tool_choice": body.model_dump(include={"tool_choice"})["tool_choice"] or "auto",
            "tools": [tool.model_dump() | {"strict": False} for tool in body.tools or ()],
            "truncation": "disabled",
        }

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The body of a response."""
        output = [item_fields(part, answer.scores, self._tokenizer) for part in answer.parts]
        return self._ended(answer.ending, output)

    async def events(self, stream: AnswerStream) -> AsyncGenerator[str, None]:
        """The events of a streamed response."""
        begun = self._head | {"status": "in_progress", "output": [], "error": None, "usage": None}
        yield self._event("response.created", response=begun)
        yield self._event("response.in_progress", response=begun)
        items = ItemWriter(self._tokenizer)
        async for delta in stream:
            if delta.progress is not None:
                told = progress_fields(delta.progress)
                yield self._event("response.in_progress", response=begun, **told)
            for kind, fields in items.write(delta):
                yield self._event(kind, **fields)
            if delta.ending is not None:
                for kind, fields in items.close():
                    yield self._event(kind, **fields)
                response = self._ended(delta.ending, items.output)
                yield self._event(f"response.{response['status']}", response=response)

    def error_event(self, error: ApiError) -> str:
        """How a stream tells of an error."""
        found = {"code": error.code, "message": error.message, "param": error.param}
        return self._event("error", **found)

    def _ended(self, ending: Ending, output: list[dict[str, Any]]) -> dict[str, Any]:
        is_cut = ending.reason == "length"
        details = {"reason": "max_output_tokens"} if is_cut else None
        return (
            self._head
            | {
                "status": "incomplete" if is_cut else "completed",
                "incomplete_details": details,
                "error": None,
                "output": output,
                "usage": _usage(ending.usage),
            }
            | receipt_fields(ending)
        )

    def _event(self, kind: str, **fields: Any) -> str:
        numbered = {"type": kind, "sequence_number": self._n_events} | fields
        self._n_events += 1
        return sse(numbered, kind)


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
