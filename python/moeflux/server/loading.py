"""From what a user calls a model to what a server serves."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import moeflux
from moeflux.engine.budget import MemoryCapError
from moeflux.engine.model import Model
from moeflux.hub import DEMO
from moeflux.memory import parse_size
from moeflux.server.generation_defaults import generation_defaults
from moeflux.server.jobs.scheduler import Scheduler
from moeflux.server.options import ServerOptions
from moeflux.server.page.live_view import LiveView
from moeflux.server.served_model import ServedModel, chat_template_of
from moeflux.settings import Settings, user_path

REQUESTS_NBYTES = 64 * 2**20
"""Of a memory cap, for bodies, grammars and connections: half an hour of mixed load took 48 MB."""


@dataclass
class ModelSource:
    """A model that is loaded once, with the arguments of `moeflux.load`."""

    model: str
    device: str = "auto"
    memory: int | str | None = None
    settings: Settings | None = None
    loaded: Model | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        """What requests call it: a folder by its name, anything else as it was given."""
        if self.model == DEMO:
            return DEMO
        folder = user_path(self.model)
        return folder.resolve().name if folder.is_dir() else self.model

    @property
    def model_memory(self) -> int | None:
        """What a memory cap leaves for the model, in bytes: requests take some of it."""
        if self.memory is None:
            return None
        # Of a smaller cap one byte is left, for the load to tell all that is wanted.
        return max(1, parse_size(self.memory) - REQUESTS_NBYTES)

    def load(self, options: ServerOptions) -> ServedModel:
        """Raises as `moeflux.load`, and ChatTemplateError for a template that is none."""
        try:
            model = moeflux.load(self.model, self.device, self.model_memory, self.settings)
        except MemoryCapError as error:
            if error.cap != "memory":
                raise
            given = 0 if self.memory is None else parse_size(self.memory)
            raise MemoryCapError(given, error.needs, REQUESTS_NBYTES) from error
        self.loaded = model
        tokenizer = model.tokenizer
        names = options.aliases or (self.name,)
        jobs = Scheduler(model, max_active=options.max_active, max_queued=options.max_queued)
        return ServedModel(
            names=names,
            tokenizer=tokenizer,
            chat_template=chat_template_of(tokenizer),
            context_size=model.context_size,
            defaults=generation_defaults(model.path),
            jobs=jobs,
            created=int(time.time()),
            grammars=lambda: model.guidance,
            view=LiveView(model, names[0], jobs.status),
        )

    def close(self) -> None:
        """Let go of the model. Idempotent."""
        if self.loaded is not None:
            self.loaded.close()
