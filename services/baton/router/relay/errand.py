"""One request on its way: placed, sent, and placed again when its pod fails, until its client has the answer.

The state that outlives a pod is here: what the client has (`EventRelay`), who failed, how long is left.
Requests are seeded, so whoever runs one again draws the same tokens. So may one that a client had begun and
comes back for: pods compute it from its beginning, and tell what the client has not.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from baton.core.errors import (
    BatonError,
    Draining,
    OutOfPages,
    PeerLost,
    PromptTooLong,
    Refused,
    Starting,
    Unreached,
)
from baton.core.types import Request
from baton.http import Exchange
from baton.http.body import header
from baton.openai import Asked, EventRelay, Had
from baton.protocol.placed import Placed, encode
from baton.router.placement import Decision, Query, Reason, Refusal, lender
from baton.router.pods import Generation
from baton.router.relay.attempt import Attempt, head_of
from baton.router.relay.explain import explain
from baton.router.relay.leg import Leg
from baton.router.relay.means import Means
from baton.router.relay.trail import Placement
from baton.router.relay.usage import Counted, usage_of
from baton.trace import Span

FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 1.0
EXPLAIN = b"x-baton-explain"
"""`true` tells in the answer's head where it was placed and why."""
TIMELINE = b"x-baton-timeline"
"""`true` has the pod tell in the answer when what happened."""


class Errand:
    """`await errand.run()` once."""

    def __init__(
        self,
        means: Means,
        exchange: Exchange[Any],
        asked: Asked,
        generation: Generation,
        had: Had | None = None,
    ) -> None:
        """`had`: what a client that comes back has of the answer."""
        self._means = means
        self._exchange = exchange
        self._asked = asked
        self._generation = generation
        self._requests = _requests(asked, generation)
        self._had = had
        self._relay = EventRelay(had.tokens if had else 0)
        self._failures = 0
        """Pods that had it and lost it."""
        self._patient = False
        """It has met a pod that fails or leaves, so it waits when nobody takes it: others may soon."""
        self._attempts = 0
        self._excluded: frozenset[str] = frozenset()
        self._last: BatonError | None = None
        self._gave_up_at: float | None = None
        """When waiting for a pod that takes it ends; None until it waits."""
        self._wait_s = FIRST_WAIT_S
        self._lender = ""
        """The pod out of whose pool the prompt's prefix may be read."""
        self._explained = header(exchange.scope, EXPLAIN) == "true"
        self._timed = header(exchange.scope, TIMELINE) == "true"
        self.ttft_s: float | None = None
        self.counted = Counted(_prompt_tokens(self._requests, asked))

    async def run(self) -> None:
        """Answer the client, or raise what it is to be told."""
        self._means.budget.request()
        while True:
            found = self._place()
            if isinstance(found, Refusal):
                await self._wait(found)
                continue
            try:
                await self._attempt(found)
                return
            except Refused as error:
                self._refused(found, error)
            except PeerLost as error:
                self._lost(found, error)

    # ---- where to ----

    def _place(self) -> Decision | Refusal:
        found = self._place_within()
        free = self._had is None and not self._relay.relayed
        if isinstance(found, Refusal) and free and (self._patient or self._last is None):
            # Nothing was delivered, so another model's pods may have it: an update may have gone on.
            other = self._means.pods.other(self._generation.kind)
            if other is not None:
                before = self._generation, self._requests
                self._generation, self._requests = other, _requests(self._asked, other)
                again = self._place_within()
                if isinstance(again, Decision):
                    return again
                self._generation, self._requests = before
        return found

    def _place_within(self) -> Decision | Refusal:
        query = self._query()
        found = self._means.pods.place(self._generation.kind, query, patient=self._patient)
        if not isinstance(found, Refusal):
            self._lender = lender(query, found) if found.lender is None else found.lender
        return found

    def _query(self) -> Query:
        prompts = self._requests[:: self._asked.shape.n]
        limits = [request.sampling.max_tokens for request in self._requests]
        known = [limit for limit in limits if limit is not None]
        index, held = self._means.pods.index, dict[str, int]()
        for prompt in prompts:
            for worker, pages in index.lookup(prompt.identities).items():
                if pages:
                    held[worker] = held.get(worker, 0) + pages
        return Query(
            prompt_tokens=sum(len(prompt.token_ids) for prompt in prompts),
            page_size=self._generation.kind.page_size,
            held=held,
            identities=prompts[0].identities,
            longest=max(len(prompt.token_ids) for prompt in prompts),
            max_tokens=sum(known) if len(known) == len(limits) else None,
            excluded=self._excluded,
            number=self._means.pods.placed,
        )

    async def _wait(self, refusal: Refusal) -> None:
        """Nobody takes it now: an error at once, or a wait, if somebody may soon."""
        means, now = self._means, self._means.clock.now()
        if self._gave_up_at is None and not self._worth_waiting(refusal):
            raise self._last or _refused(refusal, self._asked.field)
        if self._gave_up_at is None:
            self._gave_up_at = now + means.settings.wait_s
        if now >= self._gave_up_at:
            means.meters.given_up.inc()
            raise self._last or _refused(refusal, self._asked.field)
        self._excluded = frozenset()
        await means.clock.sleep(self._wait_s * (0.5 + random.random()))
        self._wait_s = min(LONGEST_WAIT_S, 2 * self._wait_s)

    def _worth_waiting(self, refusal: Refusal) -> bool:
        """It has met a pod whose place another will take, or nobody at all while places are being taken."""
        nobody = refusal.reason in (Reason.NO_DECODE, Reason.NO_PREFILL) and self._last is None
        return self._patient or (nobody and self._means.pods.changing)

    # ---- there ----

    async def _attempt(self, decision: Decision) -> None:
        means, exchange = self._means, self._exchange
        origin = means.pods.origin(decision.decode)
        placement = Placement(exchange.id, self._attempts, means.clock.now(), self.counted.prompt, decision)
        body = encode(self._placed(decision))
        left_s = exchange.deadline - means.clock.now()
        span = self._begin(decision)
        message = head_of(origin, exchange.id, left_s, len(body), span.header) + body
        self._attempts += 1
        if self._explained:
            explain(exchange.reply, decision, self._attempts)
        means.trail.add(placement)
        means.pods.paces.placed(decision, placement.at)
        first, stream = self.ttft_s is None, self._asked.shape.stream
        with Leg(means, placement, exchange.began, span, first=first, told=self._told_at_once) as leg:
            attempt = Attempt(means.pool, origin, exchange.reply, leg.arrived)
            try:
                if stream:
                    await attempt.stream(message, self._relay)
                else:
                    answer = await attempt.whole(message)
                    self.counted = usage_of(answer, self.counted)
                    await exchange.reply.json(answer)
            finally:
                if self.ttft_s is None:
                    self.ttft_s = leg.ttft_s
            leg.completed()
        means.pods.shunning.succeeded(decision.decode)

    @property
    def _told_at_once(self) -> bool:
        """Whether the first bytes come when the prompt has been computed."""
        return self._asked.shape.stream and self._had is None

    def _begin(self, decision: Decision) -> Span:
        """The span of one attempt. The request's own tells where it was placed last."""
        span = self._exchange.span
        if not span.recorded:
            return span
        facts = {
            "decode": decision.decode,
            "prefill": "" if decision.local else decision.computes,
            "predicted_ttft": round(decision.predicted_ttft_s, 4),
            "cached_expected": decision.cached_decode,
        }
        span.tell(**facts)
        return span.begin("attempt", number=self._attempts, **facts)

    def _placed(self, decision: Decision) -> Placed:
        delivered = self._relay.resume() if self._attempts else {}
        had, requests = self._had, self._requests
        if had is not None and delivered:
            had, delivered = had.and_then(delivered[0].token_ids, delivered[0].ended), {}
        if self._attempts or had is not None:
            requests = tuple(
                replace(
                    request,
                    id=f"{self._exchange.id}.{self._attempts}-{place}",
                    generated=tuple(delivered[place].token_ids) if place in delivered else (),
                )
                for place, request in enumerate(requests)
            )
        return Placed(
            id=self._exchange.id,
            shape=self._asked.shape_of(self._generation.kind.fingerprint),
            requests=requests,
            layout=self._generation.kind.layout,
            texts=tuple([prompt.text for prompt in self._asked.prompts]),
            ended=tuple([place for place, one in delivered.items() if one.ended]),
            resumes=bool(self._relay.relayed),
            had=had,
            prefill=decision.prefill,
            lender=self._lender,
            timeline=self._timed,
        )

    # ---- and back ----

    def _refused(self, decision: Decision, error: Refused) -> None:
        """Nothing was done; somebody else may have room, or come for one that leaves."""
        self._last = error
        if isinstance(error, (Draining, Starting)):  # sooner than its lease said so
            self._patient = True
        self._excluded |= {decision.decode}
        self._means.meters.refusals.labels(error.code).inc()
        self._means.pods.shunning.refused(decision.decode)
        self._exchange.span.mark("refused", decode=decision.decode, cause=error.code)

    def _lost(self, decision: Decision, error: PeerLost) -> None:
        """The pod failed it. Raises what the client is told, when that was the last try."""
        means = self._means
        self._patient = True
        self._last = error
        self._excluded |= {decision.decode}
        lease = means.pods.lease(decision.decode)
        if lease is not None:
            means.pods.shunning.failed(decision.decode, lease.incarnation, str(error))
        if not isinstance(error, Unreached):  # those cost nothing, and each pod is shunned after one
            self._failures += 1
            self._gave_up_at, self._wait_s = None, FIRST_WAIT_S
            if self._failures >= means.settings.tries or not means.budget.take(self._failures):
                means.meters.given_up.inc()
                raise error
        resumes = bool(self._relay.relayed)
        (means.meters.resumes if resumes else means.meters.retries).inc()
        self._exchange.span.mark(
            "resumed" if resumes else "retried", decode=decision.decode, cause=str(error)
        )

    def notes(self) -> dict[str, object]:
        """For the log."""
        told: dict[str, object] = {"attempts": self._attempts, "prompt_tokens": self.counted.prompt}
        if self.ttft_s is not None:
            told["ttft"] = round(self.ttft_s, 4)
        return told

    def count(self) -> Counted:
        """Tokens, at the end."""
        if self._asked.shape.stream:
            self.counted.generated = self._relay.tokens
            self.counted.cached = self._relay.cached
        return self.counted


def _requests(asked: Asked, generation: Generation) -> tuple[Request, ...]:
    return asked.requests(generation.kind.page_size, generation.kind.fingerprint)


def _prompt_tokens(requests: Sequence[Request], asked: Asked) -> int:
    return sum(len(request.token_ids) for request in requests[:: asked.shape.n])


def _refused(refusal: Refusal, field: str) -> BatonError:
    """`field` is what the prompts came in."""
    if refusal.reason is Reason.TOO_LONG:
        return PromptTooLong(field, refusal.message)
    error = (OutOfPages if refusal.reason is Reason.NO_PAGES else Refused)(refusal.message)
    error.retry_after_s = refusal.retry_after_s
    return error
