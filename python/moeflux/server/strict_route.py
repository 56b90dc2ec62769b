"""Routes whose JSON is read by strict_json."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from moeflux.server.errors import ApiError
from moeflux.server.strict_json import parse_request


class RefusedBody(HTTPException):
    """Carries an ApiError through the framework, which answers other exceptions itself."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.status, error.message)
        self.error = error


class _StrictRequest(Request):
    async def json(self) -> Any:
        try:
            return parse_request(await self.body())
        except ApiError as error:
            raise RefusedBody(error) from error


class StrictRoute(APIRoute):
    """A route whose body is JSON that every later step can handle."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return handle_strictly
