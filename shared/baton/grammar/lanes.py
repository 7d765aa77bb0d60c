"""Masks that take long, computed beside the steps: by threads that let go of Python, several at a time.

Answers that share a lexer wait for each other's masks, whatever the number of threads. So each lane has
lexers of its own, of the grammars that came to it last, and an answer that comes to a lane is led to where it
was. What goes in and what comes out are values: between the two, nobody else uses an answer's matcher.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from baton.core.cores import usable

if TYPE_CHECKING:
    from llguidance import LLMatcher

IN_LINE_S = 0.001
"""Masks of a step that are expected to take no longer in all are filled where steps are decided: so much
passes beside the step in flight even of a small model, and is not worth two changes of threads."""
IN_LINE = 0.25
"""The same as a share of a step: whose masks are computed beside them misses the step that comes next."""
MOST = 8
"""Lanes: each may have a lexer of each grammar, and those are large."""
KEPT = 2
"""A lane's lexers that wait for another answer; those in use stay in any case."""
AT_ONCE = 100
"""Tokens of an answer that is led to where it was: less than a millisecond."""
SLACK = 1.5
"""Of what a lane would have to do if all had the same: an answer stays in its lane up to there."""


def in_line_s(step_s: float) -> float:
    """What the masks of a step may take before it is launched, where steps take so long."""
    return max(IN_LINE_S, IN_LINE * step_s)


def beside(seconds: Iterable[float], most_s: float = IN_LINE_S) -> bool:
    """Whether masks that are expected to take so long are computed beside the steps."""
    return sum(seconds) > most_s


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer is in its grammar. Its owner leaves all of it alone until the mask is there."""

    grammar: str
    taken: Sequence[int]
    inner: LLMatcher
    lives: int
    """How often it may begin anew with another lexer."""
    lane: int | None
    """Whose lexer it has; None for that of those whose masks are filled in line."""
    moves: bool
    """Whether its grammar is compiled so quickly that each lane may have a lexer of it."""
    seconds: float
    """What its mask is expected to take."""


@dataclass(frozen=True, slots=True)
class Made:
    """A mask, and what its answer goes on with."""

    mask: npt.NDArray[np.uint8]
    inner: LLMatcher
    lives: int
    lane: int | None
    seconds: float


def spread(places: Sequence[Place], busy: Sequence[float]) -> list[int]:
    """The lane of each. `busy` is what the lanes have to do already, in seconds. Those who have a lexer there
    stay, unless others would wait for them; all of a grammar that is compiled once go the same way."""
    load, chosen = list(busy), [0] * len(places)
    fair = (sum(load) + sum(place.seconds for place in places)) / len(load)
    rest = []
    for at, place in enumerate(places):
        if not place.moves:
            chosen[at] = hash(place.grammar) % len(load)
        elif place.lane is not None and load[place.lane] <= fair * SLACK:
            chosen[at] = place.lane
        else:
            rest.append(at)
            continue
        load[chosen[at]] += place.seconds
    for at in rest:
        chosen[at] = min(range(len(load)), key=load.__getitem__)
        load[chosen[at]] += places[at].seconds
    return chosen


Outcome = tuple[int, list[Made] | BaseException]
"""By the number that the work was given under."""


class Lanes:
    def __init__(self, fresh: Callable[[str], LLMatcher], mask_bytes: int, count: int | None = None) -> None:
        """`fresh` compiles a grammar, in any thread; `count` is what leaves the scheduler a core, if None."""
        count = min(max(usable() - 1, 1), MOST) if count is None else count
        self.done: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._lanes = [_Lane(number, fresh, mask_bytes, self.done) for number in range(count)]
        self._given: dict[int, tuple[int, float]] = {}
        """Lane and expected seconds of what is not done, by number."""
        self._count = 0

    def __len__(self) -> int:
        return len(self._lanes)

    def begin(self, places: Sequence[Place]) -> list[tuple[int, list[int]]]:
        """Numbers under which masks will be in `done`, and of which of the places each has them."""
        busy = [0.0] * len(self)
        for lane, seconds in self._given.values():
            busy[lane] += seconds
        shares: dict[int, list[int]] = {}
        for at, lane in enumerate(spread(places, busy)):
            shares.setdefault(lane, []).append(at)
        begun = []
        for lane, share in shares.items():
            self._count += 1
            self._given[self._count] = (lane, sum(places[at].seconds for at in share))
            self._lanes[lane].work.put((self._count, [places[at] for at in share]))
            begun.append((self._count, share))
        return begun

    def ended(self, number: int) -> None:
        del self._given[number]


class _Lane:
    def __init__(
        self, number: int, fresh: Callable[[str], LLMatcher], mask_bytes: int,
        done: queue.SimpleQueue[Outcome],
    ) -> None:  # fmt: skip
        from llguidance import LLExecutor

        self.work: queue.SimpleQueue[tuple[int, list[Place]]] = queue.SimpleQueue()
        self._number = number
        self._fresh = fresh
        self._mask_bytes = mask_bytes
        self._done = done
        self._executor = LLExecutor(1)
        self._lexers: OrderedDict[str, LLMatcher] = OrderedDict()
        threading.Thread(target=self._serve, name=f"mask-{number}", daemon=True).start()

    def _serve(self) -> None:
        while True:
            number, places = self.work.get()
            try:
                self._done.put((number, self._made(places)))
            except BaseException as error:  # the scheduler's, who raises it
                self._done.put((number, error))
            del places

    def _made(self, places: Sequence[Place]) -> list[Made]:
        inners = [self._led(place) for place in places]
        masks = np.empty((len(places), self._mask_bytes), dtype=np.uint8)
        began = time.perf_counter()
        # One call for all: Python is let go of once, not for each, and may be busy for milliseconds.
        work = [(inner, at) for at, inner in enumerate(inners)]
        self._executor.unsafe_compute_mask_ptr(work, masks.ctypes.data, self._mask_bytes, len(masks))
        took = (time.perf_counter() - began) / len(places)
        made = []
        for place, inner, mask in zip(places, inners, masks, strict=True):
            # What was waited for Python is no part of a mask, and whose masks are short is to come back.
            seconds = min(took, place.seconds)
            lane = place.lane if inner is place.inner else self._number
            if inner.is_error() and place.lives:
                made.append(self._anew(place, mask, seconds))
            else:
                made.append(Made(mask, inner, place.lives, lane, seconds))
        return made

    def _led(self, place: Place) -> LLMatcher:
        """With a lexer of this lane, if it can be."""
        if place.lane == self._number or not place.moves:
            return place.inner
        found = self._lexers.get(place.grammar)
        lexer = self._compiled(place.grammar) if found is None else found
        self._lexers.move_to_end(place.grammar)
        inner = lexer.deep_copy()
        return inner if _lead(inner, place.taken) else place.inner

    def _compiled(self, grammar: str) -> LLMatcher:
        self._lexers[grammar] = self._fresh(grammar)
        if len(self._lexers) > KEPT:
            self._lexers.popitem(last=False)
        return self._lexers[grammar]

    def _anew(self, place: Place, mask: npt.NDArray[np.uint8], seconds: float) -> Made:
        """For one whose lexer is full. Who comes later shares the new one."""
        inner = self._fresh(place.grammar)
        if place.moves:
            self._lexers[place.grammar] = inner.deep_copy()
        if _lead(inner, place.taken):
            inner.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        lane = self._number if place.moves else None
        return Made(mask, inner, place.lives - 1, lane, seconds)


def _lead(inner: LLMatcher, tokens: Sequence[int]) -> bool:
    """To where these tokens lead. The library holds Python meanwhile, so not with all at once."""
    parts = (list(tokens[begin : begin + AT_ONCE]) for begin in range(0, len(tokens), AT_ONCE))
    return all(inner.consume_tokens(part) for part in parts) and not inner.is_error()
