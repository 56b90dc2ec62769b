"""The model's life in a server: loading in the background, ready, draining, gone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Literal

from moeflux.server.errors import ApiError
from moeflux.server.served_model import ServedModel

_log = logging.getLogger(__name__)

HolderState = Literal["loading", "ready", "draining", "failed"]


class ModelHolder:
    """Loads once, in a thread of its own, and hands the model out when it is there."""

    def __init__(self, load: Callable[[], ServedModel], close: Callable[[], None]) -> None:
        """`close` lets go of what `load` made, also of a part of it."""
        self._load, self._close = load, close
        self._thread: threading.Thread | None = None
        self._served: ServedModel | None = None
        self.state: HolderState = "loading"
        self.error: Exception | None = None
        """Why loading failed."""
        self.on_ready: Callable[[ServedModel], None] | None = None
        self.on_failed: Callable[[Exception], None] | None = None

    def start(self) -> None:
        """Begin to load."""
        self._thread = threading.Thread(target=self._run, name="moeflux loading", daemon=True)
        self._thread.start()

    def model(self) -> ServedModel:
        """The model. Raises ApiError (503) unless it can take requests."""
        if self._served is not None and self.state == "ready":
            return self._served
        reasons = {
            "loading": "the model is being loaded",
            "draining": "the server is shutting down",
            "failed": f"the model could not be loaded: {self.error}",
        }
        wait = 5 if self.state == "loading" else None
        reason = reasons.get(self.state, "the model is not ready")
        raise ApiError(503, reason, code=self.state, retry_after=wait)

    @property
    def served(self) -> ServedModel | None:
        """The model, also while it drains; None before it is there."""
        return self._served

    def stop_taking(self) -> None:
        """Refuse further requests; those that run go on."""
        self.state = "draining"

    def cut_off(self) -> None:
        """End what runs with an error. Idempotent."""
        if self._served is not None:
            self._served.jobs.close()

    def drain(self, timeout: float) -> bool:
        """Wait for what runs; False if some of it was cut off. Then let go of the model."""
        self.stop_taking()
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():  # it cannot be interrupted, and ends with the process
                return False
        ended = True
        if self._served is not None:
            ended = self._served.jobs.drain(timeout)
            self._served.jobs.close()
        self._close()
        return ended

    def _run(self) -> None:
        try:
            served = self._load()
        except Exception as error:  # noqa: BLE001 - it is told by /health and by the program
            self.error, self.state = error, "failed"
            _log.info("loading failed", exc_info=error)
            if self.on_failed is not None:
                self.on_failed(error)
            return
        self._served = served
        if self.state == "loading":
            self.state = "ready"
        if self.on_ready is not None:
            self.on_ready(served)
