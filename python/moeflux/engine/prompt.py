"""The prefill of one prompt in units of work, from a stored prefix where there is one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from moeflux.engine.events import PrefillProgress
from moeflux.engine.prefixes.store import PrefixStore
from moeflux.engine.session import Session


class PromptRun:
    """Feeds a prompt to a session; what is stored of its beginning is not computed again."""

    def __init__(
        self,
        session: Session,
        token_ids: Sequence[int],
        prefixes: PrefixStore | None = None,
        end_token_ids: Collection[int] = (),
    ) -> None:
        """With `prefixes` the session is empty; `end_token_ids` end the turns of a chat."""
        self._session = session
        self._token_ids = token_ids
        self._prefixes = prefixes
        self._end_token_ids = end_token_ids
        self.n_cached = 0
        """Tokens that came from a stored prefix."""
        self.n_done = 0
        """Tokens in the session, stored ones included."""

    @property
    def n_computed(self) -> int:
        """Tokens that have been prefilled."""
        return self.n_done - self.n_cached

    def units(self) -> Iterator[PrefillProgress]:
        """One unit of work each: what is stored is restored, then the rest chunk by chunk.

        Raises what Session.prefill raises.
        """
        if self._prefixes is not None:
            self.n_done = self.n_cached = self._prefixes.resume(self._session, self._token_ids)
            if self.n_cached:
                yield self._progress()
        kept = self._boundaries()
        for end in (*kept, len(self._token_ids)):
            first = self.n_done
            for n_done in self._session.prefill_chunks(self._token_ids[first:end]):
                self.n_done = first + n_done
                if self._prefixes is not None and self.n_done in kept:
                    self._prefixes.keep(self._session)
                yield self._progress()

    def _boundaries(self) -> tuple[int, ...]:
        """Where states are to be kept, behind what is there."""
        if self._prefixes is None:
            return ()
        ends = [
            place
            for place, token_id in enumerate(self._token_ids, start=1)
            if token_id in self._end_token_ids
        ]
        return tuple(
            position
            for position in self._prefixes.boundaries(self._token_ids, ends)
            if position > self.n_done
        )

    def _progress(self) -> PrefillProgress:
        return PrefillProgress(self.n_done, self.n_cached, len(self._token_ids))
