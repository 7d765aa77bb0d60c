"""Reading and lending prefixes, against a real cache and allocator: no page lost, none shared, none freed
while it may be read or written."""

from __future__ import annotations

import random

import pytest

from baton.cache import make_cache
from baton.cache.pages import PageAllocator
from baton.engine.fetches import Fetches
from baton.engine.holdings import Holdings
from baton.engine.loans import Loans
from baton.protocol import engine as wire
from baton.tokens.identity import page_identities

SIZE = 4


class Reader:
    def __init__(self, pages: int = 32, ranks: int = 1, cache: str = "radix") -> None:
        self.holdings = Holdings(PageAllocator(pages), make_cache(cache), SIZE)
        self.commands: list[wire.ToRank] = []
        self.fetches = Fetches(self.holdings, ranks, self.commands.append)
        self.loans = Loans(self.holdings)

    def fill(self, chain: tuple[bytes, ...]) -> None:
        """As if a sequence had computed it."""
        cache = self.holdings.cache
        match = cache.match(chain)
        cache.lock(match.prefix)
        missing = chain[len(match.pages) :]
        assert self.holdings.make_room(len(missing))
        pages = self.holdings.allocator.take(len(missing))
        cache.insert(match.prefix, missing, pages)
        cache.unlock(match.prefix)

    def cached(self, chain: tuple[bytes, ...]) -> int:
        return len(self.holdings.cache.match(chain).pages)

    def whole(self) -> None:
        self.holdings.check_integrity([])


def chain(pages: int, seed: int = 0) -> tuple[bytes, ...]:
    chance = random.Random(seed)
    return tuple(page_identities([chance.randrange(99) for _ in range(pages * SIZE)], SIZE))


def want(reader: Reader, id: str, identities: tuple[bytes, ...], least: int = 1) -> wire.Wanting | None:
    return reader.fetches.want(wire.Fetch(id, "owner", identities, least, 5.0), spare=0)


def test_what_was_read_is_found_by_requests_and_only_after_every_rank_has_read() -> None:
    reader, prefix = Reader(ranks=2), chain(6)
    reader.fill(prefix[:2])
    assert want(reader, "f", prefix) == wire.Wanting("f", 2, 4)
    reader.fetches.pull("f", (11, 12, 13))
    assert reader.commands == [wire.Read("f", "owner", reader.commands[0].pages, (11, 12, 13), 5.0)]  # type: ignore[union-attr]
    reader.whole()
    reader.fetches.read("f", True)
    assert reader.cached(prefix) == 2 and not reader.fetches.done
    reader.fetches.read("f", True)
    assert reader.cached(prefix) == 5
    assert reader.fetches.done == [wire.Fetched("f", 3)]
    reader.whole()


@pytest.mark.parametrize("outcome", ["refused", "failed"])
def test_a_read_that_fails_leaves_nothing_behind(outcome: str) -> None:
    reader, prefix = Reader(), chain(6)
    want(reader, "f", prefix)
    free = reader.holdings.allocator.free
    if outcome == "failed":
        reader.fetches.pull("f", (1, 2))
        reader.fetches.pull("f", ())  # too late to be called off: a rank may still write
        assert reader.holdings.allocator.free == free
        reader.fetches.read("f", False)
    else:
        reader.fetches.pull("f", ())
    assert reader.fetches.done == [wire.Fetched("f", 0)]
    assert reader.cached(prefix) == 0 and reader.holdings.allocator.free == free + 6
    reader.whole()


def test_not_begun_when_little_is_missing_or_there_is_no_room_or_nothing_would_be_kept() -> None:
    reader, prefix = Reader(pages=8), chain(6)
    reader.fill(prefix[:4])
    assert want(reader, "few", prefix, least=3) is None
    assert reader.fetches.want(wire.Fetch("full", "owner", chain(6, seed=2), 1, 5.0), spare=2) is None
    assert want(Reader(cache="naive"), "kept", prefix) is None
    assert reader.fetches.done == [wire.Fetched("few", 0), wire.Fetched("full", 0)]
    assert reader.cached(prefix) == 4
    reader.whole()


def test_what_is_lent_is_not_evicted_before_it_is_returned() -> None:
    owner, prefix = Reader(pages=9), chain(6)
    owner.fill(prefix)
    pages = owner.loans.lend("l", prefix, 2)
    assert len(pages) == 4
    assert not owner.holdings.make_room(3)
    assert owner.cached(prefix) == 6
    owner.loans.end("l")
    owner.loans.end("l")
    assert owner.holdings.make_room(8)
    assert owner.loans.lend("gone", prefix, 0) == ()
    assert owner.loans.open == 0
    owner.whole()


@pytest.mark.parametrize("seed", range(20))
def test_no_page_is_lost_over_long_histories(seed: int) -> None:
    chance = random.Random(seed)
    side, chains = Reader(pages=24, ranks=chance.choice([1, 2])), [chain(8, seed=s) for s in range(4)]
    open: dict[str, int] = {}
    """Fetch → ranks still to answer; 0 before it was lent."""
    for turn in range(600):
        prefix = chance.choice(chains)[: chance.randrange(1, 9)]
        match chance.randrange(5):
            case 0:
                if want(side, f"f{turn}", prefix, chance.randrange(1, 3)) is not None:
                    open[f"f{turn}"] = 0
            case 1 if open:
                id = chance.choice(list(open))
                if open[id] == 0:
                    before = len(side.commands)
                    side.fetches.pull(id, tuple(range(chance.randrange(0, 9))))
                    if len(side.commands) > before:
                        open[id] = side.fetches.ranks
                    else:
                        del open[id]
                else:
                    side.fetches.read(id, chance.random() < 0.7)
                    open[id] -= 1
                    if not open[id]:
                        del open[id]
            case 2:
                side.loans.end(f"l{chance.randrange(max(turn, 1))}")
            case 3:
                side.loans.lend(f"l{turn}", prefix, chance.randrange(3))
            case 4:
                if side.holdings.make_room(len(prefix)):
                    side.fill(prefix)
        side.whole()
    assert side.fetches.open == len(open)
