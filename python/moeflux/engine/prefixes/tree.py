"""Names of stored prefixes, and which of them gives way. Knows no bytes and no device.

A stored prefix is the state after so many tokens, whose rows begin where those of its parent end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from moeflux.engine.runtime import BLOCK
from moeflux.engine.snapshots.identity import StateIdentity

KEY_LENGTH = 32
"""Hexadecimal digits."""


class Stored(Protocol):
    """What is known of a stored prefix: whose rows come before, its size, when it was last used."""

    @property
    def parent(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def used(self) -> int: ...


def root_key(identity: StateIdentity) -> str:
    """The parent of prefixes that have none: other models and devices have other trees."""
    return identity.digest[:KEY_LENGTH]


def prefix_keys(root: str, token_ids: Sequence[int]) -> dict[int, str]:
    """The key of the prefix at each multiple of the block, ascending: SHA-256 of root and tokens.

    The same tokens have the same key, whatever parts they are stored in.
    """
    digest, keys = hashlib.sha256(root.encode()), {}
    tokens = np.array(token_ids, "<i4")
    for end in range(BLOCK, len(tokens) + 1, BLOCK):
        digest.update(tokens[end - BLOCK : end].tobytes())
        keys[end] = digest.hexdigest()[:KEY_LENGTH]
    return keys


def lineage(key: str, root: str, tiers: Sequence[Mapping[str, Stored]]) -> list[str] | None:
    """The prefixes that make up one, first to last, of all tiers; None if one is missing."""
    chain: list[str] = []
    while key != root:
        stored = next((tier[key] for tier in tiers if key in tier), None)
        if stored is None or key in chain:
            return None
        chain.append(key)
        key = stored.parent
    return chain[::-1]


def dispensable(stored: Mapping[str, Stored], needed: Collection[str]) -> Iterator[str]:
    """Keys in the order in which they give way; those in `needed` never do.

    Of those that are no other's parent, it is the one whose last use is longest ago.
    """
    left = dict(stored)
    while True:
        parents = {entry.parent for entry in left.values()}
        leaves = [key for key in left if key not in parents and key not in needed]
        if not leaves:
            return
        oldest = min(leaves, key=lambda key: left[key].used)
        del left[oldest]
        yield oldest


def boundaries(token_ids: Sequence[int], ends: Collection[int]) -> tuple[int, ...]:
    """Positions of a prompt worth keeping, multiples of the block, ascending.

    `ends`: where turns end. The first one (a system prompt serves many chats), the last two (a chat
    that goes on, or whose last turn is changed), and the last position before the prompt's end.
    """
    inside = sorted(end for end in ends if 0 < end <= len(token_ids))
    places = [*inside[:1], *inside[-2:], len(token_ids) - 1]
    return tuple(sorted({place - place % BLOCK for place in places if place >= BLOCK}))
