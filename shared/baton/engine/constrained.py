"""Sequences that follow a grammar: who may be decoded when, and what may be sampled.

Which tokens may come next is known when the last one is, so such a sequence is in no step while another that
samples for it is in flight. All of them are decoded in the same steps: else two halves would take turns, and
each would pay for whole steps.
"""

from __future__ import annotations

from collections.abc import Sequence as Listing

import numpy as np

from baton.core.errors import InvalidField
from baton.core.types import Request
from baton.engine.launch import Launch, Span
from baton.engine.sequence import Sequence
from baton.grammar.matcher import Grammars, Matcher
from baton.sampling.masks import Masks


class Constrained:
    def __init__(self, grammars: Grammars | None) -> None:
        """None: nobody may ask for a grammar."""
        self.grammars = grammars
        self._used = False
        """Whether anybody ever asked for one: those who never do pay nothing for it."""
        self._flying = 0
        """Launched steps, not yet absorbed, that decode for somebody with a grammar."""

    def matcher(self, request: Request) -> Matcher | None:
        """For a request that has a grammar; InvalidField when it cannot be followed."""
        grammar = request.sampling.grammar
        if not grammar:
            return None
        if self.grammars is None:
            raise InvalidField("grammar", "is not followed by this engine")
        self._used = True
        return self.grammars.matcher(grammar, request.generated)

    def free(self, sequence: Sequence) -> bool:
        """Whether one that has a grammar may be decoded now."""
        return not (sequence.pending or self._flying)

    def launched(self, spans: Listing[Span], decodes: Listing[Sequence]) -> Masks | None:
        """What a step may sample; None for anything."""
        if not self._used:
            return None
        sampled = [span.sequence for span in spans if span.samples] + list(decodes)
        found = [(line, one.matcher) for line, one in enumerate(sampled) if one.matcher is not None]
        if not found or self.grammars is None:
            return None
        self._flying += any(one.matcher is not None for one in decodes)
        lines = np.asarray([line for line, _ in found], dtype=np.int32)
        return Masks(lines, self.grammars.masks([matcher for _, matcher in found]))

    def landed(self, launch: Launch) -> None:
        if launch.batch.masks is not None:
            self._flying -= any(one.matcher is not None for one in launch.decodes)
