"""Routes whose JSON is read by strict_json."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from moeflux.server.errors import ApiError
from moeflux.server.strict_json import parse_request

LARGE_NBYTES = 64 * 1024
"""From this on, reading a body takes so long that others would wait for it."""


class RefusedBody(HTTPException):
    """Carries an ApiError through the framework, which answers other exceptions itself."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.status, error.message)
        self.error = error


class _StrictRequest(Request):
    async def json(self) -> Any:
        body = await self.body()
        try:
            if len(body) < LARGE_NBYTES:
                return parse_request(body)
            return await run_in_threadpool(parse_request, body)
        except ApiError as error:
            raise RefusedBody(error) from error


class StrictRoute(APIRoute):
    """A route whose body is JSON that every later step can handle."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return handle_strictly
