"""The page at `/`: its files, and what it shows of the server. Knows no model."""

from __future__ import annotations

from importlib.resources import files
from pathlib import PurePath
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from moeflux.server.errors import ApiError
from moeflux.server.model_holder import ModelHolder
from moeflux.server.openai.shapes import json_response

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # No text of a model can become markup, whatever the scripts do with it.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # A server that was updated must not be met by the scripts of its predecessor.
    "cache-control": "no-cache",
}
CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def page_router(holder: ModelHolder) -> APIRouter:
    """GET /, /static/<file> and /live."""
    router = APIRouter(include_in_schema=False)
    responses = _static_responses()

    @router.get("/")
    async def page() -> Response:
        return responses["index.html"]

    @router.get("/static/{name}")
    async def static(name: str) -> Response:
        if name not in responses:
            raise ApiError(404, f"the page has no file {name[:200]!r}")
        return responses[name]

    @router.get("/live")
    async def live(seen: int | None = None) -> Response:
        served = holder.served
        fields: dict[str, Any] = {}
        if served is not None and served.view is not None:
            # A look at a large model takes longer than streams should wait for the event loop.
            fields = await run_in_threadpool(served.view.look, seen)
        response = json_response({"state": holder.state} | fields)
        response.headers["cache-control"] = "no-store"
        return response

    return router


def _static_responses() -> dict[str, Response]:
    """All of the page's files, by name."""
    responses: dict[str, Response] = {}
    for entry in (files("moeflux.server.page") / "static").iterdir():
        kind = CONTENT_TYPES.get(PurePath(entry.name).suffix)
        if kind is not None:
            responses[entry.name] = Response(
                entry.read_bytes(), headers=HEADERS | {"content-type": kind}
            )
    return responses
