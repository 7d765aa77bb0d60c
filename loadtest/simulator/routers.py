"""Routers in virtual time: each places with the real policy on its own, by then old, view."""

from __future__ import annotations

from loadtest.simulator.decode import DecodePod
from loadtest.simulator.fleet import Fleet
from loadtest.simulator.traces import PAGE
from loadtest.simulator.work import Work

from baton.router.placement import Decision, Policy, Query, Refusal, View, lender
from baton.router.pods.pace import Paces
from baton.state.loads import InFlight

SHARE_S = 0.2
"""How often routers tell each other what they have in flight, as in `LoadBoard`."""


class Loads:
    """What one router has in flight, and what it last heard of the others."""

    def __init__(self) -> None:
        self.mine: dict[str, InFlight] = {}
        self.others: dict[str, InFlight] = {}
        self.paces = Paces()
        self.told: dict[str, InFlight] = {}

    def add(self, worker: str, requests: int, tokens: int) -> None:
        before = self.mine.get(worker, InFlight())
        after = InFlight(before.requests + requests, before.tokens + tokens)
        if any(after):
            self.mine[worker] = after
        else:
            self.mine.pop(worker, None)


class Routers:
    def __init__(self, fleet: Fleet, policy: Policy, count: int) -> None:
        self.fleet = fleet
        self.policy = policy
        self.events = fleet.events
        self.loads = [Loads() for _ in range(count)]
        self.placed = [0] * count
        self.placements = 0
        for number in range(count):
            self.events.after(SHARE_S * number / count, lambda number=number: self._share(number))

    def _share(self, number: int) -> None:
        own = self.loads[number]
        own.told = dict(own.mine)
        total: dict[str, InFlight] = {}
        for other in self.loads:
            if other is not own:
                for worker, (requests, tokens) in other.told.items():
                    before = total.get(worker, InFlight())
                    total[worker] = InFlight(before.requests + requests, before.tokens + tokens)
        own.others = total
        self.events.after(SHARE_S, lambda: self._share(number))

    def place(self, number: int, work: Work) -> None:
        fleet, own = self.fleet, self.loads[number]
        chain = work.identities[: work.prompt // PAGE]
        health = own.paces.health(self.events.now, {})
        view = View(fleet.roster, self.events.now, own.mine, own.others, health, f"router-{number}")
        query = Query(
            prompt_tokens=work.prompt,
            page_size=PAGE,
            held=fleet.index.lookup(chain),
            identities=chain,
            number=self.placed[number] * len(self.loads) + number,
        )
        self.placements += 1
        found = self.policy.place(view, query)
        if isinstance(found, Refusal):
            work.refusals += 1
            self.events.after(0.1, lambda: self.place(number, work))
            return
        self.placed[number] += 1
        work.predicted_s, work.gain_s = found.predicted_ttft_s, found.gain_s
        work.at_hand = fleet.at_hand(work.prompt_pages) * PAGE
        work.expected_cached = work.prompt - found.computed_tokens
        self._send(own, work, found, lender(query, found))

    def _send(self, own: Loads, work: Work, found: Decision, lends: str) -> None:
        """Hold what is in flight, release it as the answer tells, and ask the decode pod."""
        decode, prefill = found.decode, found.prefill[0] if found.prefill else ""
        computes, tokens = found.computes, found.computed_tokens
        own.add(decode, 1, 0)
        own.add(computes, 1 if prefill else 0, tokens)
        at = self.events.now
        own.paces.placed(found, at)

        def first() -> None:
            own.add(computes, -1 if prefill else 0, -tokens)
            if self.fleet.shape.watched:
                own.paces.measured(found, self.events.now - at, self.events.now)

        done = work.on_done

        def over() -> None:
            own.add(decode, -1, 0)
            done()

        work.on_first, work.on_done = first, over
        owner, computer = self.fleet.pods[decode], self.fleet.pods[prefill] if prefill else None
        assert isinstance(owner, DecodePod) and not isinstance(computer, DecodePod)
        # Pods of one role do not read from each other.
        reach = lends.startswith("decode" if prefill else "prefill") and not self.fleet.shape.unified
        pool = self.fleet.pods[lends].pool if reach else None
        peer = prefill or (lends if reach else "")
        gbps = self.fleet.gbps(decode, peer) if peer else 0.0
        self.events.after(0.0005, lambda: owner.submit(work, computer, gbps, pool))
