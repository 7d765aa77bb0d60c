"""Sequences that follow a grammar: who may be decoded when, and what may be sampled.

Which tokens may come next is known when the last one is, so such a sequence is in no step while another that
samples for it is in flight. All of them are decoded in the same steps: else two halves would take turns, and
each would pay for whole steps. Masks that take long are computed beside the steps, in which nobody with a
grammar is decoded before all of them are there; everybody else goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Listing

import numpy as np

from baton.core.errors import InvalidField
from baton.core.types import Request
from baton.engine.launch import Launch, Span
from baton.engine.sequence import Sequence
from baton.grammar.lanes import beside, in_line_s
from baton.grammar.matcher import Grammars, Matcher
from baton.sampling.masks import Masks

BEGIN_AT_ONCE = 10
"""Answers that are expected to begin in one step: each is looked at alone, and may take its share in line."""


class Constrained:
    def __init__(self, grammars: Grammars | None) -> None:
        """None: nobody may ask for a grammar."""
        self.grammars = grammars
        self.in_line_s: float | None = None
        """What the masks of a step may take before it is launched; None for what suits the steps."""
        self.step_s: Callable[[], float] = lambda: 0.0
        """What a decode takes; 0 while that is not known."""
        self._used = False
        """Whether anybody ever asked for one: those who never do pay nothing for it."""
        self._flying = 0
        """Launched steps, not yet absorbed, that decode for somebody with a grammar."""
        self._awaiting = False
        """Whether somebody who wants a token, or is to begin, has no mask yet."""
        self._joining: dict[Matcher, None] = {}
        """Of those who are to begin and whose mask takes long: it is begun with before the next step."""
        self._beginning: dict[Matcher, None] = {}
        """The same, on their way: they begin in one step, as they would if their masks took no time."""

    def matcher(self, request: Request) -> Matcher | None:
        """For a request that has a grammar; InvalidField when it cannot be followed."""
        grammar = request.sampling.grammar
        if not grammar:
            return None
        if self.grammars is None:
            raise InvalidField("grammar", "is not followed by this engine")
        self._used = True
        return self.grammars.matcher(grammar, request.generated)

    def prepare(self, running: Listing[Sequence]) -> None:
        """Before a step is decided: take in the masks that are there, and begin with those that are wanted
        next and take long."""
        grammars = self.grammars
        if not self._used or grammars is None:
            return
        grammars.collect()
        if self._flying:  # its tokens would wait for the lexers that masks are made with
            return
        if not any(one.making for one in self._beginning):
            self._beginning, self._joining = self._joining, {}
            if self._beginning:
                grammars.begin(list(self._beginning))
        found = [one.matcher for one in running if one.unfed and not one.pending]
        wanted = [one for one in found if one is not None]
        lacking = [one for one in wanted if not (one.made or one.making)]
        if beside((one.seconds for one in lacking), self._in_line_s):
            grammars.begin(lacking)
        self._awaiting = any(one.making for one in (*wanted, *self._beginning))

    @property
    def _in_line_s(self) -> float:
        return in_line_s(self.step_s()) if self.in_line_s is None else self.in_line_s

    @property
    def making(self) -> bool:
        """Whether masks are being computed, or about to be."""
        return bool(self._joining) or (self.grammars is not None and self.grammars.making)

    def rest(self, seconds: float) -> None:
        """Wait for masks that are being computed, but no longer than this."""
        if self.grammars is not None:
            self.grammars.collect(seconds)

    def free(self, sequence: Sequence) -> bool:
        """Whether one that has a grammar may be decoded now."""
        return not (sequence.pending or self._flying or self._awaiting)

    def awaits_mask(self, sequence: Sequence, rows: int) -> bool:
        """Whether one that is to begin, or to begin again, has to wait for a mask that takes long. Of so many
        at a time as have `rows`: masks of those who run go to the same lanes."""
        matcher = sequence.matcher
        if matcher is None or matcher.making:
            return matcher is not None
        if matcher in self._joining:  # whatever is thought of its mask by now
            return True
        if matcher.made:
            return matcher in self._beginning and any(one.making for one in self._beginning)
        if not beside([matcher.seconds * BEGIN_AT_ONCE], self._in_line_s):
            return False
        if len(self._joining) < rows:
            self._joining[matcher] = None
        return True

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
