"""From what a user calls a model to what a server serves."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import moeflux
from moeflux.engine.model import Model
from moeflux.hub import DEMO
from moeflux.server.generation_defaults import generation_defaults
from moeflux.server.live_view import LiveView
from moeflux.server.options import ServerOptions
from moeflux.server.scheduler import Scheduler
from moeflux.server.served_model import ServedModel, chat_template_of
from moeflux.settings import Settings


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
        folder = Path(self.model).expanduser()
        return folder.resolve().name if folder.is_dir() else self.model

    def load(self, options: ServerOptions) -> ServedModel:
        """Raises as `moeflux.load`, and CheckpointError, ChatTemplateError for its texts."""
        self.loaded = model = moeflux.load(self.model, self.device, self.memory, self.settings)
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
