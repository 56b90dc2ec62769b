"""POST /v1/messages and /v1/messages/count_tokens, as Anthropic's clients speak."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from moeflux.chat import Content, Part, Reasoning, ToolCall
from moeflux.server.answer_stream import Answer, AnswerStream, Ending, Usage
from moeflux.server.anthropic.request import AnthropicRequest, ConversationFields
from moeflux.server.errors import ApiError
from moeflux.server.openai.shapes import json_response, progress_fields, receipt_fields
from moeflux.server.planning import ChatTask, plan_chat
from moeflux.server.served_model import ServedModel
from moeflux.server.service import AnswerPlan, AnswerService, answer_while_wanted
from moeflux.server.streaming import EventStream, sse
from moeflux.server.strict_route import StrictRoute

PATH = "/v1/messages"


def messages_router(service: AnswerService) -> APIRouter:
    """The routes."""
    router = APIRouter(route_class=StrictRoute, tags=["Anthropic"])

    @router.post(PATH)
    async def create_message(body: AnthropicRequest, request: Request) -> Response:
        """An answer to a conversation."""
        served = service.model(body.model)
        plan = await run_in_threadpool(_plan, served, body)
        stream = service.start(served, plan, "messages")
        writer = MessageWriter(served.name, len(plan.prompt.token_ids))
        if body.stream:
            return EventStream(writer.events(stream), stream.close, _error_event)
        return json_response(writer.whole(await answer_while_wanted(request, stream)))

    @router.post(f"{PATH}/count_tokens")
    async def count_tokens(body: ConversationFields) -> Response:
        """How long a prompt would be."""
        served = service.model(body.model)
        token_ids = await run_in_threadpool(
            served.encode, body.template_messages(), body.offer.shown(), body.template_variables()
        )
        return json_response({"input_tokens": len(token_ids)})

    return router


def _plan(served: ServedModel, body: AnthropicRequest) -> AnswerPlan:
    task = ChatTask(
        messages=body.template_messages(),
        variables=body.template_variables(),
        offer=body.offer,
        sampling=body.sampling(served.defaults),
        answer_format=body.format,
        max_tokens=body.max_tokens,
        stops=body.stop_sequences or (),
    )
    return plan_chat(served, task)


def _error_event(error: ApiError) -> str:
    return sse(error.as_anthropic(), "error")


class MessageWriter:
    """Writes one answer as Anthropic's clients read it."""

    def __init__(self, model: str, n_prompt: int) -> None:
        self._head: dict[str, Any] = {
            "id": f"msg_{uuid.uuid4().hex[:24]}",
            "type": "message",
            "role": "assistant",
            "model": model,
        }
        self._n_prompt = n_prompt
        self._n_blocks = 0
        self._open: type[Part] | None = None
        """The kind of the block that has begun and not ended."""

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The body of a response."""
        return (
            self._head
            | {"content": [_block(part) for part in answer.parts]}
            | _stop_fields(answer.ending)
            | {"usage": _usage(answer.ending.usage)}
            | receipt_fields(answer.ending)
        )

    async def events(self, stream: AnswerStream) -> AsyncGenerator[str, None]:
        """The events of a streamed response."""
        unknown: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None}
        usage = {"usage": _usage(Usage(self._n_prompt))}
        yield _event({"type": "message_start", "message": self._head | unknown | usage})
        async for delta in stream:
            if delta.progress is not None:
                yield _event({"type": "ping"} | progress_fields(delta.progress))
            for part in delta.parts:
                for event in self._part(part):
                    yield event
            if delta.ending is not None:
                for event in self._end(delta.ending):
                    yield event

    def _part(self, part: Part) -> Iterator[str]:
        if self._open is not type(part) or isinstance(part, ToolCall):
            yield from self._close_block()
            yield self._start_block(part)
        change: dict[str, Any]
        if isinstance(part, ToolCall):
            change = {"type": "input_json_delta", "partial_json": part.arguments}
        elif isinstance(part, Reasoning):
            change = {"type": "thinking_delta", "thinking": part.text}
        else:
            change = {"type": "text_delta", "text": part.text}
        yield _event({"type": "content_block_delta", "index": self._n_blocks, "delta": change})

    def _start_block(self, part: Part) -> str:
        self._open = type(part)
        empty: Part = ToolCall(part.name, "{}") if isinstance(part, ToolCall) else type(part)("")
        block = _block(empty)
        return _event(
            {"type": "content_block_start", "index": self._n_blocks, "content_block": block}
        )

    def _close_block(self) -> Iterator[str]:
        if self._open is None:
            return
        if self._open is Reasoning:
            change = {"type": "signature_delta", "signature": ""}
            yield _event({"type": "content_block_delta", "index": self._n_blocks, "delta": change})
        yield _event({"type": "content_block_stop", "index": self._n_blocks})
        self._open = None
        self._n_blocks += 1

    def _end(self, ending: Ending) -> Iterator[str]:
        yield from self._close_block()
        change = {"type": "message_delta", "delta": _stop_fields(ending)}
        yield _event(change | {"usage": _usage(ending.usage)} | receipt_fields(ending))
        yield _event({"type": "message_stop"})


def _event(data: dict[str, Any]) -> str:
    return sse(data, data["type"])


def _block(part: Part) -> dict[str, Any]:
    if isinstance(part, ToolCall):
        call_id = f"toolu_{uuid.uuid4().hex[:24]}"
        inputs = json.loads(part.arguments)
        return {"type": "tool_use", "id": call_id, "name": part.name, "input": inputs}
    if isinstance(part, Reasoning):
        return {"type": "thinking", "thinking": part.text, "signature": ""}
    assert isinstance(part, Content)
    return {"type": "text", "text": part.text}


def _stop_fields(ending: Ending) -> dict[str, Any]:
    reasons = {"length": "max_tokens", "tool_calls": "tool_use", "stop": "end_turn"}
    reason = reasons[ending.reason]
    if ending.reason == "stop" and ending.stop_text is not None:
        reason = "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": ending.stop_text}


def _usage(usage: Usage) -> dict[str, Any]:
    """Anthropic counts restored tokens apart."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }
