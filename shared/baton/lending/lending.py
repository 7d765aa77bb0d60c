"""A worker's front as reader and as owner of cached prefixes: one conversation a loan, over whatever
connection its pods have.

    fetch ─► engine: pages wait ─► Borrow ─► owner's engine locks ─► Lent ─► ranks read ─► Returned

A fetch ends within its deadline whatever the owner does; the reader goes on with what it has, which costs
time and nothing else. Nothing here is waited for by anybody but the request that it was made for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from baton.core.ids import attempt_id
from baton.engine.fetches import LOAN_S
from baton.engine.worker import Worker
from baton.lending.worth import Rates, worth_reading
from baton.protocol import engine as wire
from baton.protocol import pods

log = logging.getLogger("baton.lending")

Send = Callable[[str, pods.Message], bool]
"""Gives a message to a worker, by its incarnation; False when there is no connection to it."""

LONGEST_S = 30.0
"""The most time that a reader may ask for."""
READ_S = 2.0
"""How long a request waits for a prefix at most. Less than the silence after which a pod is taken for lost:
an owner never takes back pages that a reader it lost sight of still reads."""


@dataclass(slots=True)
class Open:
    """One prefix that is being fetched."""

    owner: str
    identities: tuple[bytes, ...]
    timeout_s: float
    done: asyncio.Future[int]
    asked: bool = False


class Lending:
    """Use `fetch` to read; pass what pods say to `heard` and who is lost to `gone`."""

    def __init__(self, worker: Worker, send: Send) -> None:
        self.worker = worker
        self.pages = 0
        """That came here by reading, so far."""
        self.failed = 0
        """Fetches that were begun and brought nothing."""
        self._send = send
        self._open: dict[str, Open] = {}
        self._read_gb_s: dict[str, dict[int, float]] = {}
        """Worker → what reading from it gave, for each rank of ours."""
        self._lent: dict[str, str] = {}
        """Loan → reader, until it is returned."""
        worker.reader = self

    @property
    def loans(self) -> int:
        """Loans that others have not returned."""
        return len(self._lent)

    @property
    def reading(self) -> int:
        """Fetches that have not ended."""
        return len(self._open)

    # ---- reading ----

    def met(self, path: wire.Path) -> None:
        """The path to a worker's rank has been measured."""
        ranks = self._read_gb_s.setdefault(path.worker, {})
        ranks[path.rank] = min(path.read_gb_s, ranks.get(path.rank, path.read_gb_s))

    def least(self, owner: str) -> int:
        """The fewest missing pages that are worth reading from this worker; 0 when none are."""
        facts, load = self.worker.facts, self.worker.load
        if facts is None or load is None:
            return 0
        return worth_reading(
            Rates(
                page_bytes=facts.page_bytes, page_tokens=facts.page_size,
                tokens_per_s=load.prefill_tokens_per_s,
                bytes_per_s=sum(self._read_gb_s.get(owner, {}).values()) * 1e9,
            )
        )  # fmt: skip

    async def read(self, owner: str, identities: Sequence[bytes]) -> int:
        """As `fetch`, if it is worth it by what was measured."""
        least = self.least(owner)
        if not least or len(identities) < least:
            return 0
        return await self.fetch(owner, identities, least, READ_S)

    async def fetch(self, owner: str, identities: Sequence[bytes], least: int, timeout_s: float) -> int:
        """Read what is missing here of a prefix from its owner if that is at least so many pages; how many
        came. Never raises for what the owner does."""
        id = attempt_id()
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        one = Open(owner, tuple(identities), timeout_s, done)
        self._open[id] = one
        self.worker.tell(wire.Fetch(id, owner, one.identities, least, timeout_s))
        try:
            async with asyncio.timeout(timeout_s):
                pages = await asyncio.shield(done)
        except TimeoutError:
            log.warning("worker %s did not lend its pages within %g s", owner, timeout_s)
            self.failed += 1
            return 0
        finally:
            if not done.done():
                # Ends it unless its pages are being read: then it ends when none can land any more.
                done.cancel()
                self.worker.tell(wire.Pull(id, ()))
        return pages

    def wanting(self, one: wire.Wanting) -> None:
        fetch = self._open.get(one.fetch)
        if fetch is not None and not fetch.done.done():
            borrow = pods.Borrow(one.fetch, fetch.identities, one.first, fetch.timeout_s)
            fetch.asked = self._send(fetch.owner, borrow)
        if fetch is None or not fetch.asked:
            self.worker.tell(wire.Pull(one.fetch, ()))

    def fetched(self, one: wire.Fetched) -> None:
        fetch = self._open.pop(one.fetch, None)
        if fetch is None:
            return
        if fetch.asked:
            self._send(fetch.owner, pods.Returned(one.fetch))
            self.pages += one.pages
            self.failed += not one.pages and not fetch.done.done()
        if not fetch.done.done():
            fetch.done.set_result(one.pages)

    # ---- lending ----

    def lent(self, one: wire.Lent) -> None:
        reader = self._lent.get(one.loan)
        if reader is None:
            return
        if not one.pages:
            del self._lent[one.loan]
        if not self._send(reader, pods.Lent(one.loan, one.pages)):
            self._unlend(one.loan)

    def _unlend(self, loan: str) -> None:
        if self._lent.pop(loan, None) is not None:
            self.worker.tell(wire.Unlend(loan))

    # ---- what pods say ----

    def heard(self, worker: str, message: pods.Borrow | pods.Lent | pods.Returned) -> None:
        match message:
            case pods.Borrow(loan=loan):
                if loan in self._lent or message.timeout_s > LONGEST_S:
                    self._send(worker, pods.Lent(loan, ()))
                    return
                self._lent[loan] = worker
                self.worker.tell(wire.Lend(loan, message.identities, message.first))
                wait = message.timeout_s + LOAN_S
                asyncio.get_running_loop().call_later(wait, self._unlend, loan)
            case pods.Lent(loan=loan, pages=pages):
                fetch = self._open.get(loan)
                if fetch is not None and fetch.owner == worker and not fetch.done.done():
                    self.worker.tell(wire.Pull(loan, pages))
            case pods.Returned(loan=loan):
                if self._lent.get(loan) == worker:
                    self._unlend(loan)

    def gone(self, worker: str) -> None:
        """A worker is lost: what it lends will not come. What it borrowed stays until its time is up: it may
        be this end that fell silent, and the other one that still reads."""
        self._read_gb_s.pop(worker, None)
        for id, fetch in list(self._open.items()):
            if fetch.owner == worker:
                self.worker.tell(wire.Pull(id, ()))

    def __repr__(self) -> str:
        return f"<Lending {len(self._open)} fetches open, {len(self._lent)} loans out>"
