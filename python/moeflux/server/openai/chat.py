"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from moeflux.chat import Content, Part, Reasoning, ToolCall
from moeflux.server.answer_stream import Answer, AnswerStream, Delta, TokenScore, Usage
from moeflux.server.openai.chat_request import ChatRequest
from moeflux.server.openai.shapes import (
    Identity,
    call_fields,
    chat_logprobs,
    error_event,
    json_response,
    progress_fields,
    receipt_fields,
    usage_fields,
)
from moeflux.server.planning import ChatTask, plan_chat
from moeflux.server.served_model import ServedModel
from moeflux.server.service import AnswerPlan, AnswerService, answer_while_wanted
from moeflux.server.streaming import EventStream, sse
from moeflux.server.strict_route import StrictRoute

PATH = "/v1/chat/completions"


def chat_router(service: AnswerService) -> APIRouter:
    """The route."""
    router = APIRouter(route_class=StrictRoute, tags=["OpenAI"])

    @router.post(PATH)
    async def create_chat_completion(body: ChatRequest, request: Request) -> Response:
        served = service.model(body.model)
        plan = await run_in_threadpool(_plan, served, body)
        stream = service.start(served, plan, "chat")
        writer = ChatWriter(Identity.new("chatcmpl", served.name), served, body)
        if body.stream:
            return EventStream(writer.events(stream), stream.close, error_event)
        return json_response(writer.whole(await answer_while_wanted(request, stream)))

    return router


def _plan(served: ServedModel, body: ChatRequest) -> AnswerPlan:
    task = ChatTask(
        messages=body.template_messages(),
        variables=body.template_variables(),
        offer=body.offer,
        sampling=body.sampling(served.defaults),
        answer_format=body.format,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        stops=body.stops,
        logprobs=body.n_logprobs,
    )
    return plan_chat(served, task)


class ChatWriter:
    """Writes one answer as OpenAI's clients read it."""

    def __init__(self, identity: Identity, served: ServedModel, body: ChatRequest) -> None:
        self._identity, self._served = identity, served
        self._usage_wanted = bool(body.stream_options and body.stream_options.include_usage)
        self._logprobs_wanted = body.n_logprobs is not None
        self._n_calls = 0

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The body of a response."""
        calls = [part for part in answer.parts if isinstance(part, ToolCall)]
        content = "".join(part.text for part in answer.parts if isinstance(part, Content))
        reasoning = "".join(part.text for part in answer.parts if isinstance(part, Reasoning))
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if calls and not content else content,
            "refusal": None,
        }
        if reasoning:
            message["reasoning_content"] = reasoning
        if calls:
            message["tool_calls"] = [call_fields(call) for call in calls]
        choice = {
            "index": 0,
            "message": message,
            "logprobs": self._logprobs(answer.scores),
            "finish_reason": answer.ending.reason,
        }
        usage = {"usage": usage_fields(answer.ending.usage)}
        return (
            self._identity.fields("chat.completion")
            | {"choices": [choice]}
            | usage
            | receipt_fields(answer.ending)
        )

    async def events(self, stream: AnswerStream) -> AsyncGenerator[str, None]:
        """The events of a streamed response."""
        yield self._chunk({"role": "assistant", "content": ""})
        async for delta in stream:
            if delta.progress is not None:
                yield self._chunk({}, **progress_fields(delta.progress))
            for text in self._texts(delta):
                yield text
            if delta.ending is not None:
                reason = delta.ending.reason
                yield self._chunk({}, reason, **receipt_fields(delta.ending))
                if self._usage_wanted:
                    yield self._usage_chunk(delta.ending.usage)
        yield "data: [DONE]\n\n"

    def _texts(self, delta: Delta) -> Iterable[str]:
        """A chunk for each part; the first has the logarithms."""
        fields: list[dict[str, Any]] = [self._part(part) for part in delta.parts]
        if not fields and delta.scores:
            fields = [{"content": ""}]
        for n, found in enumerate(fields):
            yield self._chunk(found, scores=delta.scores if n == 0 else ())

    def _part(self, part: Part) -> dict[str, Any]:
        if isinstance(part, ToolCall):
            self._n_calls += 1
            return {"tool_calls": [{"index": self._n_calls - 1} | call_fields(part)]}
        if isinstance(part, Reasoning):
            return {"reasoning_content": part.text}
        return {"content": part.text}

    def _chunk(
        self,
        delta: dict[str, Any],
        reason: str | None = None,
        scores: Iterable[TokenScore] = (),
        **extra: Any,
    ) -> str:
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": self._logprobs(scores) if scores else None,
            "finish_reason": reason,
        }
        usage = {"usage": None} if self._usage_wanted else {}
        fields = self._identity.fields("chat.completion.chunk")
        return sse(fields | {"choices": [choice]} | usage | extra)

    def _usage_chunk(self, usage: Usage) -> str:
        fields = self._identity.fields("chat.completion.chunk")
        return sse(fields | {"choices": [], "usage": usage_fields(usage)})

    def _logprobs(self, scores: Iterable[TokenScore]) -> dict[str, Any] | None:
        if not self._logprobs_wanted:
            return None
        return {"content": chat_logprobs(scores, self._served.tokenizer), "refusal": None}
