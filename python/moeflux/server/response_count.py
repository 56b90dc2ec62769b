"""Counts responses, and answers for what no route has caught. The outermost ASGI layer but one."""

from __future__ import annotations

import logging
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moeflux.server.errors import api_error_of
from moeflux.server.guards import send_error
from moeflux.server.metrics import Metrics

_log = logging.getLogger(__name__)


class ResponseCount:
    """Every request is counted once, with the status that its client saw."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *_identity()]}
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except Exception as error:
            if status:  # too late for another answer: the connection ends instead
                raise
            _log.exception("a request failed")
            await send_error(api_error_of(error), scope, counted)
        finally:
            route = scope.get("route")
            self._metrics.count_response(getattr(route, "path", "other"), status)


def _identity() -> list[tuple[bytes, bytes]]:
    """The headers by which clients name a request, OpenAI's and Anthropic's."""
    request_id = f"req_{uuid.uuid4().hex}".encode()
    return [(b"x-request-id", request_id), (b"request-id", request_id)]
