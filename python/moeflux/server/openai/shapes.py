"""Pieces of responses that OpenAI's APIs share."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

import moeflux
from moeflux.chat import ToolCall
from moeflux.engine.events import PrefillProgress
from moeflux.server.answer_stream import Ending, TokenScore, Usage
from moeflux.server.errors import ApiError
from moeflux.server.streaming import json_text, sse
from moeflux.tokenizer import Tokenizer

LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON does not have."""


def new_id(prefix: str) -> str:
    """An identifier that no other response has."""
    return f"{prefix}-{uuid.uuid4().hex}"


@dataclass(frozen=True)
class Identity:
    """What all chunks of one response have in common."""

    id: str
    created: int
    model: str

    @classmethod
    def new(cls, prefix: str, model: str) -> Identity:
        return cls(new_id(prefix), int(time.time()), model)

    def fields(self, kind: str) -> dict[str, Any]:
        """Of a response or chunk of a kind ("chat.completion")."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": f"moeflux-{moeflux.__version__}",
        }


def json_response(body: dict[str, Any], status: int = 200) -> Response:
    """A response of JSON."""
    return Response(json_text(body).encode(), status, media_type="application/json")


def usage_fields(usage: Usage) -> dict[str, Any]:
    """Tokens as the completions APIs count them."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def call_fields(call: ToolCall) -> dict[str, Any]:
    """One tool call of a chat completion."""
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def progress_fields(progress: PrefillProgress) -> dict[str, Any]:
    """The field that tells how far the prompt is; clients that do not know it pass over it."""
    fields = {
        "n_done": progress.n_done,
        "n_cached": progress.n_cached,
        "n_tokens": progress.n_tokens,
    }
    return {"moeflux": {"prefill": fields}}


def receipt_fields(ending: Ending) -> dict[str, Any]:
    """The field that tells what an answer has cost, and what ended it."""
    stats = None if ending.stats is None else ending.stats.as_dict()
    return {"moeflux": {"receipt": stats, "stop_text": ending.stop_text}}


def chat_logprobs(scores: Iterable[TokenScore], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Logarithms as chat completions and responses have them."""
    return [
        _token(score.token_id, score.logprobs.logprob, tokenizer)
        | {"top_logprobs": [_token(i, log, tokenizer) for i, log in score.logprobs.top]}
        for score in scores
    ]


def error_event(error: ApiError) -> str:
    """How a stream tells of an error."""
    return sse(error.as_openai())


def finite(logprob: float) -> float:
    """A logarithm that JSON can have."""
    return max(logprob, LEAST_LOGPROB)


def _token(token_id: int, logprob: float, tokenizer: Tokenizer) -> dict[str, Any]:
    spelling = tokenizer.token_bytes(token_id)
    return {
        "token": spelling.decode(errors="replace"),
        "logprob": finite(logprob),
        "bytes": list(spelling),
    }
