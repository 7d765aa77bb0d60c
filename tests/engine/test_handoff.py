"""Two engines and a slow, unreliable wire between their pools: hand-overs never change a token.

The wire copies page contents after a delay, out of order, and loses attempts; requests are aborted
at any moment. The decode engine's runner checks what it reads, so a page that a late writer reaches
after it changed hands shows up as a wrong token of whoever holds it then.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
from tests.engine.test_scheduler import VOCAB, engine, prompts, request

from baton.core.types import Request
from baton.engine.legs import Push
from baton.engine.loop import Engine
from baton.engine.sequence import Leg
from baton.testing.mirror import MirrorRunner, continuation


@dataclass
class Pair:
    """A prefill and a decode engine; `chance` decides everything that a network would."""

    seed: int
    lose: float = 0.0
    local_below: int = 0
    prefill: Engine = field(init=False)
    decode: Engine = field(init=False)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    wire: list[tuple[int, Push]] = field(default_factory=list)
    arrived: dict[str, set[int]] = field(default_factory=dict)
    lasts: dict[str, int] = field(default_factory=dict)
    talk: list[tuple[int, str, tuple[object, ...]]] = field(default_factory=list)
    now: int = 0
    tries: int = 0
    pushed: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.prefill = engine(pages=60, max_running=6, prefill_budget=16)
        self.decode = engine(pages=70, max_running=5)

    def ask(self, asked: Request) -> None:
        self.requests[asked.id] = asked
        self.decode.intake.ask(asked, self.attempt(asked.id), self.local_below)

    def attempt(self, id: str) -> str:
        self.tries += 1
        return f"{id}/{self.tries}"

    def say(self, what: str, *about: object) -> None:
        """Over the network, after a while."""
        self.talk.append((self.now + self.chance.randrange(4), what, about))

    def abort(self, id: str) -> None:
        attempt = self.decode.intake.abort(id)
        if attempt is not None:
            self.say("abort", attempt)
        else:
            self.decode.abort(id)

    def tick(self) -> None:
        self.now += 1
        self._deliver()
        happened = self.decode.step()
        for update in happened.updates:
            if update.token is not None:
                self.tokens.setdefault(update.id, []).append(update.token)
        for reserved in happened.reserved:
            self.say("leg", self.requests[reserved.id], reserved.attempt, reserved.first, reserved.pages)
        happened = self.prefill.step()
        for update in happened.updates:
            if update.token is not None:
                self.say("first", update.id, update.token)
        for push in happened.pushes:
            self.wire.append((self.now + self.chance.randrange(6), push))
        for ended in happened.ended:
            self.say("ended", ended.attempt, ended.complete)

    def _deliver(self) -> None:
        due = [one for one in self.talk if one[0] <= self.now]
        self.talk = [one for one in self.talk if one[0] > self.now]
        for _, what, about in due:
            getattr(self, f"_{what}")(*about)
        landing = [one for one in self.wire if one[0] <= self.now]
        self.wire = [one for one in self.wire if one[0] > self.now]
        self.chance.shuffle(landing)
        for _, push in landing:
            self._land(push)

    def _leg(self, asked: Request, attempt: str, first: int, pages: tuple[int, ...]) -> None:
        leg = Request(
            id=attempt,
            token_ids=asked.token_ids,
            generated=asked.generated,
            identities=asked.identities,
            sampling=asked.sampling,
            salt=asked.salt,
        )
        self.prefill.legs.submit(leg, Leg(attempt, "decode", first, pages))
        if self.chance.random() < self.lose:
            self.say("abort", attempt)

    def _abort(self, attempt: str) -> None:
        if attempt in self.prefill.scheduler.sequences:
            self.prefill.legs.abort(attempt)
        else:
            self.say("abort_again", attempt)

    def _abort_again(self, attempt: str) -> None:
        """The leg had not come yet, or is over: the end of the latter has been announced."""
        if any(what == "leg" and attempt in about for _, what, about in self.talk):
            self._abort(attempt)

    def _first(self, attempt: str, token: int) -> None:
        self.decode.intake.first_token(attempt, token, None, ())

    def _land(self, push: Push) -> None:
        source, target = self.prefill.runner, self.decode.runner
        assert isinstance(source, MirrorRunner) and isinstance(target, MirrorRunner)
        for page, to in zip(push.pages, push.to, strict=True):
            target.pool[to] = source.pool[page]
        self.pushed += len(push.pages)
        self.prefill.legs.moved(push.attempt, ok=True)
        chunks = self.arrived.setdefault(push.attempt, set())
        chunks.add(push.chunk)
        if push.last:
            self.lasts[push.attempt] = push.chunk
        if push.attempt in self.lasts and len(chunks) == self.lasts[push.attempt] + 1:
            self.decode.intake.landed(push.attempt)
        elif chunks == set(range(len(chunks))):
            self.decode.intake.progress(push.attempt, push.through)

    def _ended(self, attempt: str, complete: bool) -> None:
        self.decode.intake.over(attempt)
        id = attempt.split("/")[0]
        if not complete and id in self.decode.scheduler.sequences:
            if self.chance.random() < 0.5:
                self.decode.intake.retry(id, self.attempt(id))
            else:
                self.decode.intake.local(id)

    def finish(self, limit: int = 20_000) -> None:
        for _ in range(limit):
            self.tick()
            if self.prefill.idle and self.decode.idle and not self.wire and not self.talk:
                break
        else:
            raise AssertionError(f"not idle: {self.prefill!r} {self.decode!r}")
        for one in (self.prefill, self.decode):
            one.scheduler.check_integrity()
            assert one.scheduler.holdings.allocator.fenced == 0
        assert (
            self.decode.intake.open == 0 and not self.decode.intake.attempts and self.prefill.legs.open == 0
        )


@pytest.mark.parametrize("seed", range(4))
def test_handed_over_runs_equal_undisturbed_ones(seed: int) -> None:
    pair = Pair(seed)
    made = prompts(30, seed)
    for i, prompt in enumerate(made):
        pair.ask(request(f"r{i}", prompt, 1 + i))
        for _ in range(pair.chance.randrange(5)):
            pair.tick()
    pair.finish()
    assert [pair.tokens[f"r{i}"] for i in range(30)] == [
        continuation(p, 1 + i, VOCAB) for i, p in enumerate(made)
    ]
    assert pair.pushed > 0


@pytest.mark.parametrize("seed", range(8))
def test_lost_attempts_and_aborts_change_no_token_and_leak_nothing(seed: int) -> None:
    pair = Pair(seed, lose=0.3, local_below=6)
    aborted = set()
    made = prompts(60, seed + 100)
    for i, prompt in enumerate(made):
        pair.ask(request(f"r{i}", prompt, pair.chance.randrange(1, 30)))
        for _ in range(pair.chance.randrange(6)):
            pair.tick()
        if pair.chance.random() < 0.4:
            victim = f"r{pair.chance.randrange(i + 1)}"
            aborted.add(victim)
            pair.abort(victim)
    pair.finish()
    for i, prompt in enumerate(made):
        want = continuation(prompt, pair.requests[f"r{i}"].sampling.max_tokens or 0, VOCAB)
        got = pair.tokens.get(f"r{i}", [])
        assert got == (want[: len(got)] if f"r{i}" in aborted else want), f"r{i}"


@pytest.mark.parametrize("seed", range(3))
def test_resumed_sequences_are_handed_over_from_where_they_stood(seed: int) -> None:
    pair = Pair(seed, lose=0.2 * seed)
    made = prompts(30, seed)
    runs = [continuation(p, 30, VOCAB) for p in made]
    for i, prompt in enumerate(made):
        pair.ask(request(f"r{i}", prompt, 30, generated=runs[i][:i]))
        for _ in range(pair.chance.randrange(5)):
            pair.tick()
    pair.finish()
    assert [pair.tokens[f"r{i}"] for i in range(30)] == [whole[i:] for i, whole in enumerate(runs)]
    assert pair.pushed > 0


def test_pages_already_there_are_not_sent() -> None:
    pair = Pair(3)
    prompt = list(range(42))
    pair.ask(request("first", prompt, 1))
    pair.finish()
    assert pair.pushed == 11
    pair.ask(request("second", prompt, 1))
    pair.finish()
    assert pair.pushed == 12, "only the page that is not full is computed and sent again"


def test_a_short_rest_is_computed_on_the_spot() -> None:
    pair = Pair(3, local_below=8)
    pair.ask(request("short", list(range(8)), 3))
    pair.finish()
    assert pair.pushed == 0 and pair.tokens["short"] == continuation(list(range(8)), 3, VOCAB)


def test_the_fence_holds_until_the_writer_is_known_to_be_done() -> None:
    """A cancelled hand-over's pages go to nobody while its writer may write; without a fence they would."""
    for seed in range(1000):
        pair = Pair(seed)
        victim, other = list(range(40)), [90 - i for i in range(90)] + [7] * 60
        pair.ask(request("victim", victim, 4))
        for _ in range(pair.chance.randrange(1, 12)):
            pair.tick()
        pair.abort("victim")
        pair.ask(
            request("other", other, 8)
        )  # needs nearly the whole pool, so it would get the victim's pages
        fenced = pair.decode.scheduler.holdings.allocator.fenced
        while pair.decode.scheduler.holdings.allocator.fenced:
            held = {p for s in pair.decode.scheduler.sequences.values() for p in s.pages}
            quarantined = {p for pages in pair.decode.intake._fences.values() for p in pages}
            assert not held & quarantined
            pair.tick()
        pair.finish()
        assert pair.tokens["other"] == continuation(other, 8, VOCAB), f"seed {seed}, {fenced} fenced"


def test_pages_that_landed_survive_a_lost_attempt() -> None:
    pair = Pair(0)
    prompt = list(np.arange(60) % VOCAB)
    pair.ask(request("r", [int(t) for t in prompt], 5))
    reserved = None
    while reserved is None:
        reserved = next(iter(pair.decode.step().reserved), None)
    source = engine(pages=60)
    assert isinstance(source.runner, MirrorRunner) and isinstance(pair.decode.runner, MirrorRunner)
    for index in range(4):
        pair.decode.runner.pool[reserved.pages[index]] = prompt[index * 4 : index * 4 + 4]
    pair.decode.intake.progress(reserved.attempt, 4)
    pair.decode.intake.retry("r", "second")
    again = pair.decode.step().reserved[0]
    assert again.first == 4 and len(again.pages) == 11
    assert set(again.pages).isdisjoint(reserved.pages), "the first writer may still write its pages"
    pair.decode.intake.over(reserved.attempt)
    pair.say("leg", pair.requests["r"], again.attempt, again.first, again.pages)
    pair.finish()
    assert pair.tokens["r"] == continuation([int(t) for t in prompt], 5, VOCAB)


@pytest.mark.parametrize("landed", [0, 2])
def test_a_prompt_whose_writer_fell_silent_is_computed_here_on_other_pages(landed: int) -> None:
    """The writer may still write what it was given, and nothing, or not all of it, has landed."""
    pair = Pair(0)
    prompt = list(range(60))
    pair.ask(request("r", prompt, 5))
    (reserved,) = pair.decode.step().reserved
    assert isinstance(pair.decode.runner, MirrorRunner)
    for index in range(landed):
        pair.decode.runner.pool[reserved.pages[index]] = prompt[index * 4 : index * 4 + 4]
    pair.decode.intake.progress(reserved.attempt, landed)
    pair.decode.intake.local("r")
    assert pair.decode.scheduler.holdings.allocator.fenced == len(reserved.pages) - landed
    for _ in range(12):
        pair.tick()
        for page in reserved.pages[landed:]:
            pair.decode.runner.pool[page] = 96  # what a late writer would do
    pair.decode.intake.over(reserved.attempt)
    pair.finish()
    assert pair.tokens["r"] == continuation(prompt, 5, VOCAB)


@pytest.mark.parametrize("tokens", [58, 60])
def test_a_prompt_that_landed_and_whose_first_token_was_lost_is_finished_here(tokens: int) -> None:
    pair = Pair(0)
    prompt = list(range(tokens))
    pair.ask(request("r", prompt, 5))
    (reserved,) = pair.decode.step().reserved
    assert isinstance(pair.decode.runner, MirrorRunner)
    for index, page in enumerate(reserved.pages):
        part = prompt[index * 4 : index * 4 + 4]
        pair.decode.runner.pool[page, : len(part)] = part
    pair.decode.intake.landed(reserved.attempt)
    for _ in range(3):
        pair.decode.step()
    pair.decode.intake.local("r")
    before = pair.decode.scheduler.steps
    pair.talk.clear()
    pair.finish()
    assert pair.tokens["r"] == continuation(prompt, 5, VOCAB)
    assert pair.decode.scheduler.sequences == {} and pair.decode.scheduler.steps - before <= 7


@pytest.mark.parametrize("chunks", range(5))
@pytest.mark.parametrize("cached", [0, 20])
def test_a_second_writer_is_asked_for_the_rest_alone(chunks: int, cached: int) -> None:
    """A prefill worker dies after some chunks: what was cached here and what has landed is not sent again."""
    pair = Pair(1)
    prompt = list(range(96))
    if cached:
        pair.ask(request("before", prompt[:cached], 1))
        pair.finish()
    pair.arrived.clear()
    pair.ask(request("r", prompt, 6))
    while len(pair.arrived.get(f"r/{pair.tries}", ())) < chunks or not pair.decode.intake.attempts:
        pair.tick()
    attempt = f"r/{pair.tries}"
    landed = pair.decode.scheduler.sequences["r"].settled // 4
    assert landed >= cached // 4 and (chunks < 4 or landed > cached // 4)
    pair.prefill, pair.wire, pair.talk, before = engine(pages=60, prefill_budget=16), [], [], pair.pushed
    pair.decode.intake.retry("r", pair.attempt("r"))
    (again,) = pair.decode.step().reserved
    assert again.first == landed and len(again.pages) == 24 - landed
    pair.decode.intake.over(attempt)
    pair.say("leg", pair.requests["r"], again.attempt, again.first, again.pages)
    pair.finish()
    assert pair.pushed - before == 24 - landed
    assert pair.tokens["r"] == continuation(prompt, 6, VOCAB)
