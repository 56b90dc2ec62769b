"""The states after prompts that come again: system prompts, chats that go on.

In memory, in a folder, or both; a prompt that begins like a stored one starts behind it.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from moeflux.engine.budget import prefix_memory_nbytes
from moeflux.engine.prefixes.folder import PrefixFolder
from moeflux.engine.prefixes.memory import PrefixMemory
from moeflux.engine.prefixes.tiers import PrefixTiers
from moeflux.engine.prefixes.tree import boundaries, prefix_keys, root_key
from moeflux.engine.runtime import BLOCK, Runtime
from moeflux.engine.session import Session
from moeflux.engine.snapshots.format import StateHeader, StateReader, stored_nbytes, write_state
from moeflux.engine.snapshots.parts import (
    TOKENS,
    fill_layers,
    layer_parts,
    read_tokens,
    tokens_part,
)
from moeflux.engine.state import SequenceState
from moeflux.engine.transcript import checked_tokens
from moeflux.errors import SessionStateError, SnapshotError
from moeflux.memory import parse_size
from moeflux.settings import Settings, user_path

KIND = "prefix"


@dataclass(frozen=True)
class PrefixCounts:
    """What a store has done since the model was loaded."""

    n_resumed: int = 0
    n_missed: int = 0
    """Prompts that begin like none of the stored ones."""
    n_resumed_tokens: int = 0
    n_failed: int = 0
    """Times that a file could not be read or written, or was damaged."""
    memory_nbytes: int = 0
    """What stored prefixes take in memory now."""


class PrefixStore:
    """Keeps states that prefill has reached, and gives them back to empty sessions.

    Only states after a prompt, at multiples of the block, are kept: what is given back has the bits
    of a straight prefill. A file that cannot be read or written costs its prefix, never an error.
    """

    def __init__(
        self, runtime: Runtime, memory_nbytes: int = 0, folder: PrefixFolder | None = None
    ) -> None:
        """Room for `memory_nbytes` in memory."""
        self._runtime = runtime
        self._tiers = PrefixTiers(PrefixMemory(memory_nbytes), folder)
        self._lock = threading.RLock()
        self._n_resumed = self._n_missed = self._n_resumed_tokens = 0

    @property
    def counts(self) -> PrefixCounts:
        """As they are now, also while a prompt is resumed or kept."""
        return PrefixCounts(
            self._n_resumed,
            self._n_missed,
            self._n_resumed_tokens,
            self._tiers.n_failed,
            self._tiers.memory.used_nbytes,
        )

    def boundaries(self, token_ids: Sequence[int], ends: Collection[int]) -> tuple[int, ...]:
        """Positions of a prompt worth keeping, ascending; turns end at the positions `ends`."""
        return boundaries(token_ids, ends)

    def resume(self, session: Session, token_ids: Sequence[int]) -> int:
        """Fill an empty session from the longest stored prefix that is shorter than the prompt.

        How many positions that are. Raises SessionStateError for a session that is not empty,
        ValueError for a prompt that prefill would refuse.
        """
        if session.position or session.dirty:
            raise SessionStateError(
                f"only an empty session can be filled, got one at position {session.position}"
            )
        tokens = checked_tokens(token_ids, self._runtime.decoder.vocabulary)
        with self._lock:
            root = root_key(self._runtime.identity())
            keys = prefix_keys(root, tokens[: min(len(tokens) - 1, session.context_size)])
            self._tiers.refresh()
            while True:
                position, chain = self._tiers.longest(keys, root)
                if not position:
                    self._n_missed += 1
                    return 0
                if self._fill(session, tokens[:position], keys, [root, *chain]):
                    self._n_resumed += 1
                    self._n_resumed_tokens += position
                    return position

    def keep(self, session: Session) -> bool:
        """Store the state at the session's position, a multiple of the block; whether it is kept.

        It is not after decoded tokens, nor where there is no room. Raises ValueError at another
        position, SessionStateError while dirty.
        """
        with self._lock:
            self._tiers.refresh()
            with session.reading() as state:
                if not state.position or state.position % BLOCK:
                    raise ValueError(
                        f"states are kept at multiples of {BLOCK}, got position {state.position}"
                    )
                if not state.transcript.is_one_prompt:
                    return False
                chain = self._add(state)
            self._tiers.complete(chain)
            return self._tiers.has(chain[-1])

    def _add(self, state: SequenceState) -> list[str]:
        """The prefixes that make up a state, of which the last is new unless all were there."""
        identity, tokens = self._runtime.identity(), state.transcript.tokens
        root = root_key(identity)
        keys = prefix_keys(root, tokens)
        first, chain = self._tiers.longest(keys, root)
        if first == state.position:
            return chain
        parent = chain[-1] if chain else root
        header = StateHeader(
            kind=KIND,
            identity=identity,
            parent=parent,
            first=first,
            position=state.position,
            context_size=state.position,
            pieces=((state.position - first, True),),
        )
        parts = [tokens_part(tokens[first:]), *layer_parts(self._runtime, state, first)]
        chain.append(keys[state.position])
        write = partial(write_state, header=header, parts=parts)
        self._tiers.add(chain, parent, stored_nbytes(header, parts), write)
        return chain

    def _fill(
        self,
        session: Session,
        tokens: Sequence[int],
        keys: Mapping[int, str],
        chain: Sequence[str],
    ) -> bool:
        """Fill the session with the prefixes behind the root; False if one of them fails."""
        key = ""
        try:
            with session.filling() as state:
                for parent, key in pairwise(chain):
                    with self._tiers.open(key, chain) as source:
                        reader = StateReader(source)
                        if keys.get(reader.header.position) != key:
                            raise reader.damaged("has another position than its name says")
                        self._check(reader, state.position, parent, tokens)
                        is_last = key == chain[-1]
                        fill_layers(
                            self._runtime, reader, state, others={TOKENS}, rows_only=not is_last
                        )
                        state.add_prompt(tokens[state.position : reader.header.position])
        except SnapshotError as error:
            self._tiers.drop(key, error)
            session.reset()
            return False
        return True

    def _check(self, reader: StateReader, first: int, parent: str, tokens: Sequence[int]) -> None:
        """Raises SnapshotDamagedError unless it is the part of the prompt from `first` on."""
        header = reader.header
        got = (header.kind, header.identity, header.parent, header.first)
        if got != (KIND, self._runtime.identity(), parent, first):
            raise reader.damaged("is not the prefix that its name says")
        if read_tokens(reader) != list(tokens[first : header.position]):
            raise reader.damaged("has other tokens than its name says")


def open_prefix_store(runtime: Runtime, settings: Settings) -> PrefixStore | None:
    """The store that the settings ask for, if they do. Raises ValueError, SnapshotError."""
    memory_nbytes = prefix_memory_nbytes(settings)
    folder: PrefixFolder | None = None
    if settings.prefix_folder:
        try:
            nbytes = parse_size(settings.prefix_disk)
        except ValueError as error:
            raise ValueError(f"prefix_disk: {error}") from error
        folder = PrefixFolder(user_path(settings.prefix_folder), nbytes)
    if folder is None and not memory_nbytes:
        return None
    return PrefixStore(runtime, memory_nbytes, folder)
