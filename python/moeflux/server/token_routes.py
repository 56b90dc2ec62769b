"""POST /tokenize and /detokenize."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from moeflux.server.errors import refused
from moeflux.server.openai.chat_request import MAX_MESSAGES, ChatMessage, ToolFields, as_template
from moeflux.server.openai.shapes import json_response
from moeflux.server.request_fields import Name, TemplateFields, Text, TokenId
from moeflux.server.served_model import ServedModel
from moeflux.server.service import AnswerService
from moeflux.server.strict_route import StrictRoute
from moeflux.server.tool_fields import MAX_TOOLS, ToolOffer


class TokenizeRequest(TemplateFields):
    """Text, or a conversation as the chat template writes it."""

    model: Name | None = None
    prompt: Text | None = None
    add_special_tokens: bool = True
    """Begin with what the checkpoint wants in front of a raw prompt."""
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)] | None = (
        None
    )
    tools: Annotated[list[ToolFields], Field(max_length=MAX_TOOLS)] | None = None


class DetokenizeRequest(TemplateFields):
    """Token ids."""

    model: Name | None = None
    tokens: Annotated[list[TokenId], Field(max_length=2**22)]


def token_router(service: AnswerService) -> APIRouter:
    """The routes."""
    router = APIRouter(route_class=StrictRoute, tags=["tokens"])

    @router.post("/tokenize")
    async def tokenize(body: TokenizeRequest) -> Response:
        """Token ids of text or of messages."""
        served = service.model(body.model)
        tokens = await run_in_threadpool(_tokens, served, body)
        return json_response(
            {"tokens": tokens, "count": len(tokens), "max_model_len": served.context_size}
        )

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> Response:
        """Text of token ids, control tokens spelled."""
        served = service.model(body.model)
        text = await run_in_threadpool(served.tokenizer.decode, body.tokens, skip_special=False)
        return json_response({"prompt": text})

    return router


def _tokens(served: ServedModel, body: TokenizeRequest) -> list[int]:
    if (body.prompt is None) == (body.messages is None):
        raise refused("prompt", "either prompt or messages is wanted")
    if body.prompt is not None:
        return served.tokenizer.encode(body.prompt, add_bos=body.add_special_tokens)
    messages = [as_template(message, n) for n, message in enumerate(body.messages or ())]
    offer = ToolOffer([tool.function for tool in body.tools or ()]).checked()
    return served.encode(messages, offer.shown(), body.chat_template_kwargs or {})
