"""Cached prefixes that are lent: other workers read their pages, so they must stay what they are.

The owner's side of a remote prefix read (`fetches` is the reader's). A loan is a lock on a prefix of the
cache; the front, which knows the reader, ends it in time. Every cached page is settled, so it can be read
at once. Rank 0 owns it; synchronous, torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence

from baton.cache.base import Prefix
from baton.engine.holdings import Holdings


class Loans:
    def __init__(self, holdings: Holdings) -> None:
        self.holdings = holdings
        self._open: dict[str, Prefix] = {}

    def lend(self, loan: str, identities: Sequence[bytes], first: int) -> tuple[int, ...]:
        """Keep the longest cached prefix of the chain for a reader; its pages from `first` on. With none of
        those, nothing is kept."""
        assert loan not in self._open, f"loan {loan} is open"
        match = self.holdings.cache.match(identities)
        if len(match.pages) <= first:
            return ()
        self.holdings.cache.lock(match.prefix)
        self._open[loan] = match.prefix
        self.holdings.loans = len(self._open)
        return match.pages[first:]

    def end(self, loan: str) -> None:
        """The reader has what it wanted, or its time is up. Idempotent."""
        prefix = self._open.pop(loan, None)
        if prefix is not None:
            self.holdings.loans = len(self._open)
            self.holdings.cache.unlock(prefix)

    @property
    def open(self) -> int:
        return len(self._open)

    def __repr__(self) -> str:
        return f"<Loans {len(self._open)} open>"
