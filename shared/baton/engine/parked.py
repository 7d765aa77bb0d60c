"""Requests whose grammar is being compiled: they begin once it is, and nobody else waits for it."""

from __future__ import annotations

from baton.grammar.matcher import Grammars
from baton.protocol import engine as wire

Begins = wire.Submit | wire.Ask | wire.RunLeg


class Parked:
    def __init__(self, grammars: Grammars | None) -> None:
        self._grammars = grammars
        self._waiting: list[Begins] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def takes(self, message: Begins) -> bool:
        """Whether this one has to wait."""
        grammar = message.request.sampling.grammar
        if not grammar or self._grammars is None or self._grammars.ready(grammar):
            return False
        self._waiting.append(message)
        return True

    def ready(self) -> list[Begins]:
        """Those that need not wait any longer."""
        grammars = self._grammars
        if not self._waiting or grammars is None:
            return []
        return self._part([one for one in self._waiting if grammars.ready(one.request.sampling.grammar)])

    def meant(self, message: wire.ToEngine) -> list[Begins]:
        """Those that a message is about, which must have begun before it can be taken."""
        if not self._waiting:
            return []
        names = {getattr(message, "id", None), getattr(message, "attempt", None)} - {None}
        return self._part([one for one in self._waiting if names & _names(one)])

    def _part(self, those: list[Begins]) -> list[Begins]:
        for one in those:
            self._waiting.remove(one)
        return those


def _names(message: Begins) -> set[str]:
    return {message.request.id, message.attempt} if isinstance(message, wire.Ask) else {message.request.id}
