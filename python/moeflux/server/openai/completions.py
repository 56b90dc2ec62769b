"""POST /v1/completions: raw text goes on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from moeflux.chat import Content
from moeflux.server.answer_format import FREE
from moeflux.server.answer_stream import Answer, AnswerStream, Delta, TokenScore
from moeflux.server.constraints import answer_constraint
from moeflux.server.errors import refused
from moeflux.server.openai.chat_request import ResponseFormat, StreamOptions
from moeflux.server.openai.shapes import (
    Identity,
    error_event,
    finite,
    json_response,
    progress_fields,
    receipt_fields,
    usage_fields,
)
from moeflux.server.request_fields import (
    MAX_TOP_LOGPROBS,
    Name,
    SamplingFields,
    StopFields,
    Text,
    TokenCount,
    TokenId,
    example,
)
from moeflux.server.served_model import Prompt, ServedModel
from moeflux.server.service import AnswerPlan, AnswerService, answer_while_wanted
from moeflux.server.streaming import EventStream, sse
from moeflux.server.strict_route import StrictRoute
from moeflux.server.tool_fields import ToolOffer
from moeflux.tokenizer import Tokenizer

PATH = "/v1/completions"
DEFAULT_MAX_TOKENS = 16
"""Of OpenAI's API."""


class CompletionRequest(SamplingFields, StopFields):
    """The body of a request."""

    model_config = example(prompt="def main():", max_tokens=50)

    model: Name
    prompt: Text | Annotated[list[TokenId], Field(min_length=1, max_length=2**22)] | list[Text]
    """One text, or its token ids."""
    max_tokens: TokenCount | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    echo: bool | None = None
    suffix: Text | None = None


def completions_router(service: AnswerService) -> APIRouter:
    """The route."""
    router = APIRouter(route_class=StrictRoute, tags=["OpenAI"])

    @router.post(PATH)
    async def create_completion(body: CompletionRequest, request: Request) -> Response:
        """Text that goes on where the prompt ends."""
        served = service.model(body.model)
        plan = await run_in_threadpool(_plan, served, body)
        stream = service.start(served, plan, "completions")
        writer = _Writer(Identity.new("cmpl", served.name), served.tokenizer, body)
        if body.stream:
            return EventStream(writer.events(stream), stream.close, error_event)
        return json_response(writer.whole(await answer_while_wanted(request, stream)))

    return router


def _plan(served: ServedModel, body: CompletionRequest) -> AnswerPlan:
    if body.echo:
        raise refused("echo", "echo is not supported: the prompt is not repeated")
    if body.suffix:
        raise refused("suffix", "suffix is not supported: text is not inserted")
    prompt = Prompt(_token_ids(served, body.prompt), in_reasoning=False)
    wanted = FREE if body.response_format is None else body.response_format.meant()
    return AnswerPlan(
        prompt,
        served.max_tokens(body.max_tokens or DEFAULT_MAX_TOKENS, len(prompt.token_ids)),
        body.sampling(served.defaults),
        body.stops,
        body.logprobs,
        constraint=answer_constraint(served, ToolOffer(), wanted, prompt),
        raw=True,
    )


def _token_ids(served: ServedModel, prompt: str | list[int] | list[str]) -> list[int]:
    if isinstance(prompt, str):
        return served.raw_prompt(prompt)
    texts = [part for part in prompt if isinstance(part, str)]
    if texts or not prompt:
        if len(texts) != 1:
            raise refused("prompt", f"one prompt at a time is completed, got {len(texts)}")
        return served.raw_prompt(texts[0])
    token_ids = [part for part in prompt if isinstance(part, int)]
    served.check_room(token_ids)
    return token_ids


class _Writer:
    """Writes one completion."""

    def __init__(self, identity: Identity, tokenizer: Tokenizer, body: CompletionRequest) -> None:
        self._identity, self._tokenizer = identity, tokenizer
        self._logprobs_wanted = body.logprobs is not None
        self._usage_wanted = bool(body.stream_options and body.stream_options.include_usage)
        self._n_characters = 0

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The body of a response."""
        text = "".join(part.text for part in answer.parts if isinstance(part, Content))
        choice = self._choice(text, answer.scores, answer.ending.reason)
        return (
            self._identity.fields("text_completion")
            | {"choices": [choice], "usage": usage_fields(answer.ending.usage)}
            | receipt_fields(answer.ending)
        )

    async def events(self, stream: AnswerStream) -> AsyncGenerator[str, None]:
        """The events of a streamed response."""
        async for delta in stream:
            yield self._chunk(delta)
            if delta.ending is not None and self._usage_wanted:
                usage = {"choices": [], "usage": usage_fields(delta.ending.usage)}
                yield sse(self._identity.fields("text_completion") | usage)
        yield "data: [DONE]\n\n"

    def _chunk(self, delta: Delta) -> str:
        text = "".join(part.text for part in delta.parts if isinstance(part, Content))
        reason = None if delta.ending is None else delta.ending.reason
        fields = self._identity.fields("text_completion")
        fields["choices"] = [self._choice(text, delta.scores, reason)]
        if self._usage_wanted:
            fields["usage"] = None
        if delta.progress is not None:
            fields |= progress_fields(delta.progress)
        if delta.ending is not None:
            fields |= receipt_fields(delta.ending)
        return sse(fields)

    def _choice(
        self, text: str, scores: Iterable[TokenScore], reason: str | None
    ) -> dict[str, Any]:
        logprobs = self._logprobs(scores) if self._logprobs_wanted else None
        return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, scores: Iterable[TokenScore]) -> dict[str, Any]:
        """The older form of logarithms: four lists side by side."""
        found: dict[str, Any] = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }
        for score in scores:
            text = self._text(score.token_id)
            found["tokens"].append(text)
            found["token_logprobs"].append(finite(score.logprobs.logprob))
            top = {self._text(i): finite(log) for i, log in reversed(score.logprobs.top)}
            found["top_logprobs"].append(top)
            found["text_offset"].append(self._n_characters)
            self._n_characters += len(text)
        return found

    def _text(self, token_id: int) -> str:
        return self._tokenizer.token_bytes(token_id).decode(errors="replace")
