"""The web application: routes and guards around one model. Knows no API's fields."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

import moeflux
from moeflux.errors import MoefluxError
from moeflux.server.anthropic.messages import messages_router
from moeflux.server.errors import ApiError
from moeflux.server.guards import BodyGuard, KeyGuard, SendGuard
from moeflux.server.jobs.status import SchedulerStatus
from moeflux.server.metrics import Metrics
from moeflux.server.model_holder import ModelHolder
from moeflux.server.openai.chat import chat_router
from moeflux.server.openai.completions import completions_router
from moeflux.server.openai.responses import responses_router
from moeflux.server.openai.shapes import json_response
from moeflux.server.openapi import describe
from moeflux.server.options import ServerOptions
from moeflux.server.page.routes import page_router
from moeflux.server.response_count import ResponseCount
from moeflux.server.service import AnswerService
from moeflux.server.status_routes import status_router
from moeflux.server.streaming import ClientGoneError, logged
from moeflux.server.strict_route import RefusedBody
from moeflux.server.token_routes import token_router
from moeflux.server.validation import validation_error

N_PREPARING = 4
"""Requests whose prompts and grammars are made at the same time."""

CLIENT_CLOSED_REQUEST = 499
"""For the account only: nobody reads the response."""


def create_app(holder: ModelHolder, options: ServerOptions) -> FastAPI:
    """An application that loads `holder`'s model when it starts and drains it when it ends."""

    def status() -> SchedulerStatus | None:
        ready = holder.served if holder.state == "ready" else None
        return None if ready is None else ready.jobs.status()

    metrics = Metrics(status)
    service = AnswerService(holder, metrics, options)
    app = FastAPI(
        title="moeflux",
        version=moeflux.__version__,
        lifespan=_lifespan(holder, options),
        # Their pages load scripts from other hosts.
        docs_url=None,
        redoc_url=None,
    )
    for router in (
        chat_router(service),
        completions_router(service),
        responses_router(service),
        messages_router(service),
        token_router(service),
        status_router(service),
        page_router(holder),
    ):
        app.include_router(router)
    _handle_errors(app)
    describe(app, lambda: () if holder.served is None else holder.served.names)
    # The last one added is the first to see a request.
    app.add_middleware(BodyGuard, options=options)
    app.add_middleware(KeyGuard, options=options)
    if options.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(options.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
    app.add_middleware(ResponseCount, metrics=metrics)
    app.add_middleware(SendGuard, options=options)
    return app


def _lifespan(
    holder: ModelHolder, options: ServerOptions
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # Bounds the memory and the processors that preparing requests takes.
        current_default_thread_limiter().total_tokens = N_PREPARING
        holder.start()
        yield
        await run_in_threadpool(holder.drain, options.drain_timeout)

    return lifespan


def _handle_errors(app: FastAPI) -> None:
    """Every error in the shape of the API that was asked."""

    @app.exception_handler(ApiError)
    async def refuse(request: Request, error: ApiError) -> Response:
        response = json_response(error.body(request.url.path), error.status)
        response.headers.update(error.headers())
        return response

    @app.exception_handler(RequestValidationError)
    async def refuse_fields(request: Request, error: RequestValidationError) -> Response:
        return await refuse(request, validation_error(error))

    @app.exception_handler(HTTPException)
    async def refuse_route(request: Request, error: HTTPException) -> Response:
        if isinstance(error, RefusedBody):
            return await refuse(request, error.error)
        return await refuse(request, ApiError(error.status_code, str(error.detail)))

    @app.exception_handler(ClientGoneError)
    async def close(_: Request, __: ClientGoneError) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    async def tell(request: Request, error: Exception) -> Response:
        return await refuse(request, logged(error))

    # Known ones here; what is left is told by the outermost layer, which raises it once more.
    for kind in (MoefluxError, MemoryError):
        app.add_exception_handler(kind, tell)
