"""What clients are told when a request fails: one error, in the shape that each API expects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moeflux.engine.state_budget import SessionMemoryError
from moeflux.errors import (
    ChatTemplateError,
    ConstraintError,
    ContextOverflowError,
    MoefluxError,
)
from moeflux.server.jobs.refusals import DrainingError

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}
SERVER_ERROR = 500


@dataclass(eq=False)
class ApiError(Exception):
    """A request that is answered with an error.

    param: the field of the request that is at fault. code: what programs can tell the error by.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    retry_after: int | None = None
    """Seconds after which the same request may succeed."""

    def __str__(self) -> str:
        return self.message

    def headers(self) -> dict[str, str]:
        """Of the response."""
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        return headers | ({"www-authenticate": "Bearer"} if self.status == 401 else {})

    def as_openai(self) -> dict[str, Any]:
        """The body that OpenAI's clients read."""
        kind = _OPENAI_TYPES.get(self.status, "invalid_request_error")
        if self.status == SERVER_ERROR:
            kind = "server_error"
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def as_anthropic(self) -> dict[str, Any]:
        """The body that Anthropic's clients read."""
        kind = _ANTHROPIC_TYPES.get(self.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": self.message}}

    def body(self, path: str) -> dict[str, Any]:
        """In the shape of the API that `path` belongs to."""
        return self.as_anthropic() if path.startswith("/v1/messages") else self.as_openai()


def refused(param: str, message: str, code: str | None = None) -> ApiError:
    """The error for a request whose field `param` cannot be served."""
    return ApiError(400, message, param, code)


def api_error_of(error: BaseException) -> ApiError:
    """The error that a client sees for an exception of ours."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextOverflowError):
        return context_error(error.position + error.n_tokens, error.context_size)
    if isinstance(error, SessionMemoryError):
        return refused("max_tokens", str(error), "memory")
    if isinstance(error, ChatTemplateError):
        return refused("messages", str(error))
    if isinstance(error, ConstraintError):
        # Some of what is too much to enforce shows only on the way.
        return refused("response_format", str(error), "constraint")
    if isinstance(error, DrainingError):
        return ApiError(503, str(error), code="draining")
    if isinstance(error, MoefluxError):
        return ApiError(SERVER_ERROR, str(error), code=type(error).__name__)
    if isinstance(error, MemoryError):
        return ApiError(SERVER_ERROR, "out of memory", code="out_of_memory")
    return ApiError(SERVER_ERROR, "the server failed; its log says why", code="internal_error")


def context_error(n_tokens: int, context_size: int) -> ApiError:
    """The error for a prompt that leaves no room for an answer."""
    return refused(
        "messages",
        f"the prompt has {n_tokens} tokens, the context of this server holds {context_size}",
        "context_length_exceeded",
    )
