"""Finds stop strings in a text that arrives in pieces, and cuts the text there.

The decode pod puts one between a sequence's detokenizer and its client. Text that could still become
a stop string is held back, so nothing that should have been cut is ever sent. What is found does not
depend on where the pieces end: the stop that is complete first wins, and of two complete at the same
character the longer one. So a resumed sequence stops where the first run would have.

Before `min_tokens` tokens stop strings do not count: the caller skips such text instead of pushing it.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Not thread-safe; one owner. `matched` is the stop string found; after that nothing comes out."""

    __slots__ = ("_firsts", "_held", "_include", "_stops", "matched")

    def __init__(self, stops: Sequence[str], include: bool = False) -> None:
        """`include` keeps the stop string itself in the text."""
        # Longest first: of two that end at the same character, the first one found stays.
        self._stops = tuple(sorted(set(stops), key=len, reverse=True))
        self._firsts = tuple({stop[0] for stop in self._stops})
        self._include = include
        self._held = ""
        self.matched: str | None = None

    @property
    def held(self) -> str:
        """Text that was pushed and is neither out nor cut."""
        return self._held

    def push(self, text: str) -> str:
        """The text that is safe to send now."""
        if not self._held and not any(first in text for first in self._firsts):
            return text if self.matched is None else ""
        if self.matched is not None:
            return ""
        text = self._held + text
        found = self._first_complete(text)
        if found is not None:
            self._held = ""
            self.matched, end = found
            return text[:end] if self._include else text[: end - len(self.matched)]
        safe = first_possible(text, self._stops)
        self._held = text[safe:]
        return text[:safe]

    def skip(self, text: str) -> str:
        """Text in which no stop string counts, nor one that begins in it; passes as it is."""
        if self.matched is not None:
            return ""
        held, self._held = self._held, ""
        return held + text

    def finish(self) -> str:
        """No text follows: what was held back was no stop string."""
        held, self._held = self._held, ""
        return held

    def _first_complete(self, text: str) -> tuple[str, int] | None:
        """The stop string that is complete first, and where it ends."""
        best: tuple[str, int] | None = None
        for stop in self._stops:
            # An end at or after the best one's cannot win, so the search need not go there.
            limit = len(text) if best is None else best[1] - 1
            at = text.find(stop, 0, limit)
            if at >= 0:
                best = stop, at + len(stop)
        return best


def first_possible(text: str, stops: Sequence[str]) -> int:
    """Where the earliest tail begins that is the beginning of one of these."""
    earliest = len(text)
    for stop in stops:
        at = text.find(stop[0], max(0, len(text) - len(stop) + 1), earliest)
        while at >= 0:
            if stop.startswith(text[at:]):
                earliest = at
                break
            at = text.find(stop[0], at + 1, earliest)
    return earliest
