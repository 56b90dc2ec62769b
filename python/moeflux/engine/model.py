"""A loaded model: what `moeflux.load` returns. Joins checkpoint, device, sessions and text."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import Unpack

from moeflux._core import Device
from moeflux.capture import StepCapture
from moeflux.chat import ChatTemplate
from moeflux.checkpoint import Checkpoint
from moeflux.checkpoint.convert import Conversion, convert
from moeflux.checkpoint.watch import FileWatch
from moeflux.engine.budget import (
    MemoryNeeds,
    default_context_size,
    memory_needs,
    weight_nbytes_per_token,
)
from moeflux.engine.chosen import open_named_device, stream_settings
from moeflux.engine.chunk_size import place_model
from moeflux.engine.constraint import Constraint
from moeflux.engine.generate import Generation, Watchers
from moeflux.engine.placement import Caps, Placement, vram_cap
from moeflux.engine.prefill import Prefill
from moeflux.engine.prefixes.store import PrefixStore, open_prefix_store
from moeflux.engine.request import Limits, Request, RequestOptions, SamplingOptions
from moeflux.engine.routes import RouteRecorder
from moeflux.engine.runtime import Runtime
from moeflux.engine.sampler import Sampler, SamplingParams
from moeflux.engine.session import Session
from moeflux.engine.snapshots.identity import Fingerprint
from moeflux.engine.snapshots.snapshot import restore_snapshot
from moeflux.engine.state import new_state
from moeflux.engine.state_budget import StateBudget
from moeflux.experts.stream import ExpertStream
from moeflux.experts.timeline import Timeline
from moeflux.models import load_model
from moeflux.models.loaded import ModelConfig
from moeflux.settings import Settings
from moeflux.tokenizer import Tokenizer

if TYPE_CHECKING:
    from moeflux.engine.guidance import Guidance

Prompt = str | Sequence[Mapping[str, object]] | Sequence[int]
"""Text, chat messages, or token ids."""


class Model:
    """Weights on a device and experts on disk.

    Make sessions with session(), text with generate(); close() when done.
    """

    def __init__(
        self,
        folder: Path,
        device: str = "auto",
        memory: int | str | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings or Settings.from_environment()
        self._checkpoint = Checkpoint.open(folder)
        self._device = open_named_device(device, self.settings)
        caps = Caps(memory, vram_cap(self.settings, self._device))
        self._loaded = load_model(self._checkpoint, self._device)
        self._needs = memory_needs(self._loaded, self.settings, self._device)
        self._placement = place_model(self._loaded, self._needs, self.settings, self._device, caps)
        self._runtime = self._start()
        self._runtime.memory_cap = self._placement.memory_cap
        self._runtime.vram_cap = self._placement.vram_cap
        self._runtime.states = StateBudget(self._placement.states_nbytes(self._needs))
        self._runtime.context_limit = self.config.max_position_embeddings
        self._runtime.weight_nbytes_per_token = weight_nbytes_per_token(self._loaded)
        self._prefill = Prefill(self._runtime)
        self._close = weakref.finalize(self, self._runtime.close)
        self._prefixes = open_prefix_store(self._runtime, self.settings)

    @property
    def config(self) -> ModelConfig:
        """The architecture's configuration, under the names of config.json."""
        return self._loaded.config

    @property
    def device(self) -> Device:
        return self._device

    @property
    def runtime(self) -> Runtime:
        """Queue, decoder, experts and scratch, for decode loops of your own."""
        return self._runtime

    @property
    def memory_needs(self) -> MemoryNeeds:
        """Bytes by purpose."""
        return self._needs

    @property
    def placement(self) -> Placement:
        """The slots and records that the caps left."""
        return self._placement

    @property
    def path(self) -> Path:
        """The checkpoint's folder."""
        return self._checkpoint.path

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Raises CheckpointError if the checkpoint has none."""
        return Tokenizer.from_folder(self.path)

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """Raises ChatTemplateError if the checkpoint has none."""
        return ChatTemplate(self.tokenizer)

    @cached_property
    def guidance(self) -> Guidance:
        """Makes constraints for generate(): of a JSON schema, a regular expression, a grammar."""
        from moeflux.engine.guidance import Guidance  # noqa: PLC0415 - it costs time to import

        return Guidance(self.tokenizer)

    @property
    def context_size(self) -> int:
        """Positions of a session that does not ask for another number."""
        return default_context_size(self.config, self.settings)

    def session(self, context_size: int | None = None) -> Session:
        """A new, empty session of `context_size` positions.

        Raises ValueError beyond the model's own limit, SessionMemoryError where the states of all
        live sessions would not fit under the memory cap.
        """
        size = self.context_size if context_size is None else context_size
        return Session(self._runtime, self._prefill, new_state(self._runtime, size), owner=self)

    def restore(self, path: str | PathLike[str], context_size: int | None = None) -> Session:
        """A new session, as Session.save wrote it to `path`: it goes on with the same bits.

        `context_size` None: with as much room. Raises SnapshotDamagedError for a file that is no
        snapshot or not whole, SnapshotMismatchError for one of another model, device or version,
        SnapshotError where it cannot be read; ContextOverflowError, SessionMemoryError.
        """
        state = restore_snapshot(self._runtime, Path(path), context_size)
        return Session(self._runtime, self._prefill, state, owner=self)

    @property
    def prefixes(self) -> PrefixStore | None:
        """The states after prompts that come again, if the settings ask for them to be kept."""
        return self._prefixes

    def encode_prompt(self, prompt: Prompt, **template: Any) -> list[int]:
        """Token ids of a raw prompt, or of messages through the checkpoint's chat template.

        Token ids stay as they are.
        """
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt, add_bos=True)
        token_ids = [part for part in prompt if isinstance(part, int)]
        if token_ids and len(token_ids) == len(prompt):
            return token_ids
        messages = cast(Sequence[Mapping[str, object]], prompt)
        return self.chat_template.encode(messages, **template)

    def generate(
        self,
        prompt: Prompt,
        *,
        session: Session | None = None,
        timeline: Timeline | None = None,
        routes: RouteRecorder | None = None,
        **options: Unpack[RequestOptions],
    ) -> Generation:
        """Generate text after a raw prompt, chat messages or token ids: an iterator of Events.

        Without a `session` it gets one with room for prompt and answer, at most `context_size`.
        Its `stats` say what it has cost so far. `timeline` gets the spans of its steps, `routes`
        the experts that they route to. `options` are those of request(). Arguments are checked at
        the call, as request() and begin() do.
        """
        watchers = Watchers(timeline, routes)
        return self.begin(self.request(prompt, **options), session, watchers)

    def request(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = 256,
        stop: Sequence[str] = (),
        template: Mapping[str, Any] | None = None,
        logprobs: int | None = None,
        constraint: Constraint | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Request:
        """What to generate, checked, for begin(): nothing is held and nothing computed yet.

        `logprobs`: each event tells the logarithm of its token's probability, and those of so many
        of the likeliest. `constraint`: what the text has to be, see `guidance`.
        `sampling`: fields of SamplingParams (temperature, top_p, top_k, min_p,
        repetition_penalty, presence_penalty, frequency_penalty, seed, logit_bias). `template`:
        variables of the chat template. Raises ValueError for an empty prompt or a bad parameter.
        """
        sampler = Sampler(SamplingParams(**sampling))
        limits = Limits(max_tokens, self.tokenizer.eos_token_ids, stop)
        prompt_ids = self.encode_prompt(prompt, **(template or {}))
        request = Request(prompt_ids, sampler, limits, logprobs, constraint)
        request.check(self._loaded.decoder.vocabulary)
        return request

    def begin(
        self,
        request: Request,
        session: Session | None = None,
        watchers: Watchers | None = None,
    ) -> Generation:
        """Start a request, once: the sampler goes on with it. The rest as in generate().

        Raises ContextOverflowError for a prompt that does not fit, SessionMemoryError as session().
        """
        n_prompt = len(request.prompt_ids)
        prefixes = self.prefixes if session is None else None
        wanted = n_prompt + request.limits.max_tokens
        session = session or self.session(min(wanted, self.context_size))
        session.check_room(n_prompt)
        return Generation(session, self._runtime, self.tokenizer, request, prefixes, watchers)

    def _start(self) -> Runtime:
        device, loaded, settings = self._device, self._loaded, self.settings
        top_k = loaded.config.num_experts_per_tok
        tensor_paths = {entry.path for entry in self._checkpoint.tensors.values()}
        expert_paths = {path for layer in loaded.experts if layer for path in layer.paths}
        files = FileWatch(tensor_paths | expert_paths)
        chosen = stream_settings(self._needs, self._placement, settings)
        experts = ExpertStream(device, loaded.experts, top_k, chosen)
        chunk = self._placement.chunk.n_tokens
        runtime = Runtime(device, device.queue(), loaded.decoder, experts, files, chunk)
        runtime.lossy = settings.lossy
        runtime.fingerprint = Fingerprint(self._checkpoint, files)
        runtime.capture = StepCapture.from_settings(
            device, settings, len(loaded.decoder.layers), runtime.drain
        )
        return runtime

    def convert(
        self,
        destination: str | PathLike[str],
        *,
        bits: int | None = None,
        group_size: int | None = None,
    ) -> Conversion:
        """Write this checkpoint with packed experts to another folder; see moeflux.convert."""
        return convert(self.path, destination, bits=bits, group_size=group_size)

    def close(self) -> None:
        """Stop reads and let go of the device.

        Sessions of this model cannot be used any more. Idempotent.
        """
        self._close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
