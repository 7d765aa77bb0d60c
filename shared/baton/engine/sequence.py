"""The engine's mutable view of one request. The scheduler owns it; nobody else writes to it.

Lengths, in tokens, always `settled ≤ computed ≤ len(tokens) + pending`:

    tokens    |prompt ............ output ....|      known to the host
    given     |...................:...|              known when it came: the prompt, and what it resumes from
    settled   |...................|                  KV complete: every step that wrote it has ended
    computed  |.......................|              KV written by steps launched so far
    pending                                   |.|    sampled by launched steps, value not known yet
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from baton.cache.base import Prefix
from baton.core.types import Finish, Request, TokenLogprob
from baton.grammar.matcher import Matcher
from baton.tokens.identity import extend_identities

NEVER = float("inf")
MOST_MARKS = 64
"""Of a sequence between two updates; the first ones are kept."""


class Stage(Enum):
    ARRIVING = "arriving"
    """Its prompt's KV comes from another worker."""
    WAITING = "waiting"
    PREFILLING = "prefilling"
    RUNNING = "running"
    LEAVING = "leaving"
    """Finished, but a launched step or a transfer still touches its pages."""
    GONE = "gone"


@dataclass(slots=True)
class Leg:
    """Where another worker wants the prompt's pages, and how far the pushing has got."""

    attempt: str
    """Names this one try at a hand-over; a second try has another name."""
    peer: str
    """The receiving worker's incarnation."""
    first: int
    """Index of the first page of the prompt that the receiver lacks."""
    pages: tuple[int, ...]
    """The receiver's pages for those from `first` on."""
    sent: int = 0
    """Pages of the prompt, from its beginning, that have been given to the transfer or are not wanted."""
    chunks: int = 0
    closed: bool = False
    """The last chunk has been given to the transfer."""


class Sequence:
    __slots__ = (
        "arrival",
        "cached",
        "computed",
        "due",
        "finish",
        "given",
        "identities",
        "inflight",
        "leg",
        "lent",
        "limit",
        "marks",
        "matcher",
        "owned",
        "pages",
        "pending",
        "prefix",
        "prompt",
        "queued_at",
        "request",
        "row",
        "scores",
        "settled",
        "stage",
        "stops",
        "stored",
        "tokens",
    )  # fmt: skip

    def __init__(
        self, request: Request, arrival: int, limit: int, stops: frozenset[int], leg: Leg | None = None,
        *, queued_at: float = 0.0, due: float = NEVER,
    ) -> None:  # fmt: skip
        self.request = request
        self.matcher: Matcher | None = None
        """Where `tokens` are in the grammar that they follow."""
        self.leg = leg
        self.arrival = arrival
        """Order of arrival; kept through retractions."""
        self.queued_at = queued_at
        self.due = due
        """When its first token must be there, by the scheduler's clock; a leg's pages besides."""
        self.prompt = len(request.token_ids)
        self.given = self.prompt + len(request.generated)
        """Tokens whose KV is computed before any is sampled."""
        self.limit = limit
        """Most tokens, prompt included."""
        self.stops = stops
        self.tokens = [*request.token_ids, *request.generated]
        self.identities = list(request.identities)
        self.stage = Stage.WAITING
        self.finish: Finish | None = None
        self.cached: int | None = None
        """Prompt tokens found in the cache when it was first admitted."""
        self.scores: list[TokenLogprob] = []
        self.row = 0
        self.pages: list[int] = []
        self.owned: list[bool] = []
        """For each page: whether this sequence owns it (else the cache does, under our lock)."""
        self.prefix: Prefix | None = None
        """The cached prefix that this sequence keeps locked."""
        self.stored = 0
        """Pages offered to the cache so far."""
        self.computed = 0
        self.settled = 0
        self.pending = 0
        self.inflight = 0
        """Launched steps, not yet absorbed, that touch this sequence."""
        self.lent = 0
        """Transfers that read or may write its pages."""
        self.marks: list[tuple[str, float]] = []
        """What happened since the last update, and when."""

    def mark(self, what: str, at: float) -> None:
        if len(self.marks) < MOST_MARKS:
            self.marks.append((what, at))

    @property
    def generated(self) -> int:
        """Tokens of output, also those that another worker generated."""
        return len(self.tokens) - self.prompt

    @property
    def unscored(self) -> bool:
        """Whether log-probabilities of its prompt are wanted and have not been told: they are with the first
        token, so a sequence that resumes has told them."""
        return self.request.sampling.prompt_logprobs is not None and not self.generated

    @property
    def unfed(self) -> bool:
        """Whether another decode is wanted, as far as lengths tell."""
        return len(self.tokens) + self.pending < self.limit

    def take(self, token: int) -> Finish | None:
        """Go on by a token; how it ends the sequence, if it does."""
        self.tokens.append(token)
        if self.matcher is not None and self.leg is None and not self.matcher.take(token):
            return Finish.ERROR  # of a leg, whose pages are on their way, the owner finds out
        if token in self.stops and self.generated > self.request.sampling.min_tokens:
            return Finish.STOP
        if self.matcher is not None and self.matcher.over and self.leg is None:
            return Finish.STOP
        return Finish.LENGTH if len(self.tokens) >= self.limit else None

    def identities_of(self, pages: int, page_size: int) -> list[bytes]:
        """Identities of the first `pages` pages, continuing the chain over generated tokens as needed."""
        known = len(self.identities)
        if known < pages:
            new = self.tokens[known * page_size : pages * page_size]
            self.identities.extend(extend_identities(self.identities, new, page_size, self.request.salt))
        return self.identities[:pages]

    def __repr__(self) -> str:
        return (
            f"<Sequence {self.request.id} {self.stage.value}: {self.prompt}+{self.generated} tokens, "
            f"{self.settled}/{self.computed} computed, {len(self.pages)} pages, {self.inflight} in flight>"
        )
