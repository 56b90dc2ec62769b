"""Health, metrics and models."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool

from moeflux.server.openai.shapes import json_response
from moeflux.server.served_model import ServedModel
from moeflux.server.service import AnswerService

NOT_READY = 503


def status_router(service: AnswerService) -> APIRouter:
    """The routes."""
    router = APIRouter()
    holder = service.holder

    @router.get("/health/live", tags=["status"])
    async def live() -> Response:
        """The process answers."""
        return json_response({"status": "live"})

    @router.get("/health", tags=["status"])
    @router.get("/health/ready", tags=["status"])
    async def ready() -> Response:
        """Requests are taken: 200, else 503 with the reason."""
        served = holder.served
        if holder.state != "ready" or served is None:
            error = None if holder.error is None else str(holder.error)
            return json_response({"status": holder.state, "error": error}, NOT_READY)
        status = served.jobs.status()
        if status.draining:
            return json_response({"status": "draining", "error": None}, NOT_READY)
        fields = ("n_active", "n_queued", "max_active", "max_queued")
        found = asdict(status)
        return json_response(
            {"status": "ready", "model": served.name} | {name: found[name] for name in fields}
        )

    @router.get("/metrics", tags=["status"])
    async def metrics() -> Response:
        """For Prometheus."""
        text = await run_in_threadpool(service.metrics.text)
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})

    @router.get("/v1/models", tags=["models"])
    async def list_models() -> Response:
        """What is served, in the shapes of OpenAI and of Anthropic at once."""
        served = service.model()
        whole = {"object": "list", "data": [_model(served, name) for name in served.names]}
        pages = {"has_more": False, "first_id": served.names[0], "last_id": served.names[-1]}
        return json_response(whole | pages)

    @router.get("/v1/models/{model:path}", tags=["models"])
    async def retrieve_model(model: str) -> Response:
        """One model."""
        return json_response(_model(service.model(model), model))

    return router


def _model(served: ServedModel, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": served.created,
        "owned_by": "moeflux",
        "max_model_len": served.context_size,
        "type": "model",
        "display_name": name,
        "created_at": served.created_at,
    }
