"""Requests whose grammar is being compiled: they begin once it is, and nobody else waits for it.

What is said of one meanwhile waits behind it; one that is given up goes at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from baton.grammar.matcher import KEPT, Compiled, Grammars
from baton.protocol import engine as wire

TOGETHER = KEPT // 2
"""Begin in one turn, so that none of their grammars is forgotten before its request has begun."""

Begins = wire.Submit | wire.Ask | wire.RunLeg


@dataclass(slots=True)
class _Place:
    message: Begins
    compiled: Compiled
    behind: list[wire.ToEngine] = field(default_factory=list)

    @property
    def names(self) -> set[str]:
        asked = {self.message.attempt} if isinstance(self.message, wire.Ask) else set()
        return {self.message.request.id} | asked


class Parked:
    def __init__(self, grammars: Grammars | None) -> None:
        self._grammars = grammars
        self._places: list[_Place] = []

    def __bool__(self) -> bool:
        return bool(self._places)

    def takes(self, message: wire.ToEngine) -> bool:
        """Whether this one has to wait, or is about one that does. An abort of one that waits is True, too:
        nothing of it is left."""
        if isinstance(message, Begins):
            return self._parks(message)
        place = self._about(message) if self._places else None
        if place is None:
            return False
        if isinstance(message, wire.Abort | wire.AbortLeg):
            self._places.remove(place)
            return isinstance(message, wire.Abort)  # the end of a leg is to be told
        place.behind.append(message)
        return True

    def ready(self) -> list[wire.ToEngine]:
        """What need not wait any longer, in order."""
        done = [place for place in self._places if place.compiled.done()][:TOGETHER]
        told: list[wire.ToEngine] = []
        for place in done:
            self._places.remove(place)
            if self._grammars is not None:
                self._grammars.keep(place.message.request.sampling.grammar, place.compiled)
            told += [place.message, *place.behind]
        return told

    def _parks(self, message: Begins) -> bool:
        grammar = message.request.sampling.grammar
        if not grammar or self._grammars is None:
            return False
        compiled = self._grammars.compile(grammar)
        if compiled.done():
            return False
        self._places.append(_Place(message, compiled))
        return True

    def _about(self, message: wire.ToEngine) -> _Place | None:
        names = {getattr(message, "id", None), getattr(message, "attempt", None)} - {None}
        return next((place for place in self._places if names & place.names), None)
