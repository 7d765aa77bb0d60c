"""Who asks what and when, by name and seed. A trace is the same for every policy.

A turn comes at its time, or shortly after the answer before it when that is later. Identities stand for
content: the same bytes are the same page.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

PAGE = 16


@dataclass(frozen=True, slots=True)
class Turn:
    at: float
    """Seconds from the beginning; later when the turn before is not done."""
    prompt: int
    """Tokens: all that was said before, and what is new."""
    output: int


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation: its tokens only grow, so turns are lengths of one chain of pages."""

    turns: tuple[Turn, ...]
    identities: tuple[bytes, ...]
    """Of all that is ever said in it, answers included."""


@dataclass(frozen=True, slots=True)
class Trace:
    name: str
    sessions: tuple[Session, ...] = field(repr=False)

    @property
    def requests(self) -> int:
        return sum(len(one.turns) for one in self.sessions)

    @property
    def prompt_tokens(self) -> int:
        return sum(turn.prompt for one in self.sessions for turn in one.turns)

    @property
    def repeated_tokens(self) -> int:
        """Prompt tokens, in whole pages, that some earlier request had or was answered: what one endless
        cache for all would save. Nobody can find more."""
        return sum(cached for _, cached in self.spans())

    def spans(self) -> Iterator[tuple[int, int]]:
        """Of every request, the tokens that even then would have to be computed, and those before them."""
        turns = [(turn.at, turn, one.identities) for one in self.sessions for turn in one.turns]
        seen = set[bytes]()
        for _, turn, identities in sorted(turns, key=lambda entry: entry[0]):
            pages = (turn.prompt - 1) // PAGE
            depth = bisect_left(identities, True, hi=pages, key=lambda identity: identity not in seen)
            seen.update(identities[depth : (turn.prompt + turn.output - 1) // PAGE])
            yield turn.prompt - depth * PAGE, depth * PAGE


Arrivals = Callable[[random.Random, float, float], Iterator[float]]


def poisson(chance: random.Random, rate: float, seconds: float) -> Iterator[float]:
    now = chance.expovariate(rate)
    while now < seconds:
        yield now
        now += chance.expovariate(rate)


def bursty(chance: random.Random, rate: float, seconds: float) -> Iterator[float]:
    """Spells of some 4 s of twice the rate, between spells of some 6 s of a third of it."""
    now, high, until = 0.0, False, 0.0
    while now < seconds:
        if now >= until:
            high = not high
            until = now + chance.expovariate(1 / (4 if high else 6))
        step = chance.expovariate(rate * (2 if high else 1 / 3))
        if now + step > until:
            now = until
            continue
        now += step
        yield now


def _around(chance: random.Random, median: float, spread: float, low: int, high: int) -> int:
    return max(low, min(high, round(chance.lognormvariate(math.log(median), spread))))


class _Content:
    """Pages by name: a shared beginning, then what is the session's own."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._shared: dict[int, list[bytes]] = {}

    def shared(self, name: int, tokens: int) -> list[bytes]:
        if name not in self._shared:
            self._shared[name] = self.own(tokens)
        return self._shared[name]

    def own(self, tokens: int) -> list[bytes]:
        return [self._chance.randbytes(16) for _ in range(tokens // PAGE)]

    def session(self, turns: list[Turn], beginning: list[bytes]) -> Session:
        longest = turns[-1].prompt + turns[-1].output
        rest = longest - len(beginning) * PAGE
        return Session(tuple(turns), (*beginning, *self.own(max(0, rest))))


def chat(chance: random.Random, arrivals: Arrivals, rate: float, seconds: float) -> Iterator[Session]:
    """Conversations of some five turns behind one short system prompt; the first message may bring text."""
    content = _Content(chance)
    system = content.shared(0, 192)
    for start in arrivals(chance, rate / 5, seconds):
        turns, at, length = [], start, 192
        count = min(20, 1 + int(chance.expovariate(1 / 4.5)))
        for number in range(count):
            said = _around(chance, 90, 0.8, 8, 1500) if number else _around(chance, 700, 1.0, 16, 12_000)
            turn = Turn(at, length + said, _around(chance, 200, 0.7, 8, 1000))
            turns.append(turn)
            length = turn.prompt + turn.output
            at += 2.0 + chance.expovariate(1 / 8)
        yield content.session(turns, system)


def system(chance: random.Random, arrivals: Arrivals, rate: float, seconds: float) -> Iterator[Session]:
    """Single questions to 60 applications of unequal popularity, each with a long system prompt."""
    content, lengths = _Content(chance), random.Random(7)
    sizes = [_around(lengths, 2500, 0.6, 500, 12_000) // PAGE * PAGE for _ in range(60)]
    weights = [1 / (number + 1) for number in range(60)]
    for at in arrivals(chance, rate, seconds):
        (name,) = chance.choices(range(60), weights)
        said, output = _around(chance, 250, 0.7, 16, 3000), _around(chance, 150, 0.7, 4, 1000)
        turn = Turn(at, sizes[name] + said, output)
        yield content.session([turn], content.shared(name, sizes[name]))


def documents(chance: random.Random, arrivals: Arrivals, rate: float, seconds: float) -> Iterator[Session]:
    """Long documents, each read once and asked about one to six times."""
    content = _Content(chance)
    for start in arrivals(chance, rate / 3, seconds):
        turns, at = [], start
        length = _around(chance, 6000, 0.7, 1000, 32_000)
        for _ in range(chance.randint(1, 6) if chance.random() < 0.8 else 1):
            turn = Turn(at, length + _around(chance, 60, 0.5, 8, 500), _around(chance, 180, 0.6, 8, 800))
            turns.append(turn)
            length = turn.prompt + turn.output
            at += 3.0 + chance.expovariate(1 / 6)
        yield content.session(turns, [])


Kind = Callable[[random.Random, Arrivals, float, float], Iterator[Session]]
TRACES: dict[str, tuple[Kind, Arrivals, float]] = {
    "chat-poisson": (chat, poisson, 9.0),
    "chat-bursty": (chat, bursty, 8.0),
    "system-poisson": (system, poisson, 11.0),
    "system-bursty": (system, bursty, 9.0),
    "documents-poisson": (documents, poisson, 3.2),
    "documents-bursty": (documents, bursty, 2.6),
}
"""Name → what, how it comes, and requests a second for each pod of the fleet."""


def make(name: str, pods: int, seconds: float, seed: int) -> Trace:
    kind, arrivals, rate = TRACES[name]
    chance = random.Random(f"{name}/{seed}")
    return Trace(name, tuple(kind(chance, arrivals, rate * pods, seconds)))
